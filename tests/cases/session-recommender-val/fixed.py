"""Next-item recommendation: attention pooling over the session's earlier clicks."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, random_split

torch.set_num_threads(2)
ITEMS, MAX_CLICKS, DIM, PAD = 150, 10, 32, 0


class Sessions(Dataset):
    def __init__(self, n=500, seed=77):
        g = torch.Generator().manual_seed(seed)
        self.rows = []
        for i in range(n):
            taste = int(torch.randint(0, 10, (1,), generator=g))
            k = int(torch.randint(2, MAX_CLICKS + 1, (1,), generator=g))
            clicks = 1 + taste + 10 * torch.randint(0, ITEMS // 10 - 1, (k,), generator=g)
            self.rows.append(clicks)
        self.rows[61] = self.rows[61][-1:]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        clicks = self.rows[i]
        history = torch.full((MAX_CLICKS,), PAD)
        history[:len(clicks) - 1] = clicks[:-1]
        return {"history": history, "next": clicks[-1]}


class SessionModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM, padding_idx=PAD)
        nn.init.normal_(self.items.weight, std=0.2)
        self.query = nn.Parameter(0.1 * torch.randn(1, 1, DIM))
        self.attn = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, history):
        h = self.items(history)
        q = self.query.expand(len(h), -1, -1)
        mask = history.eq(PAD)
        mask[:, 0] = False
        pooled, importance = self.attn(q, h, h, key_padding_mask=mask)
        return self.norm(pooled.squeeze(1)) @ self.items.weight.T, importance


def evaluate(model, loader):
    model.eval()
    total, hits, n = 0.0, 0, 0
    with torch.no_grad():
        for batch in loader:
            scores, _ = model(batch["history"])
            total += F.cross_entropy(scores, batch["next"], reduction="sum").item()
            hits += (scores.topk(10).indices == batch["next"][:, None]).any(1).sum().item()
            n += len(scores)
    model.train()
    return total / n, hits / n


torch.manual_seed(1)
train_set, val_set = random_split(Sessions(), [400, 100], generator=torch.Generator().manual_seed(5))
train_loader = DataLoader(train_set, batch_size=50, shuffle=True)
val_loader = DataLoader(val_set, batch_size=50)
model = SessionModel()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(4):
    running = 0.0
    for batch in train_loader:
        scores, _ = model(batch["history"])
        loss = F.cross_entropy(scores, batch["next"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item() / len(train_loader)
    val_loss, recall = evaluate(model, val_loader)
    print(f"epoch {epoch} train {running:.4f} val {val_loss:.4f} recall@10 {recall:.3f}")
