"""Prompt tuning: a frozen transformer encoder with learnable prefix vectors and a new head."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(40)
torch.use_deterministic_algorithms(True)
torch.set_num_threads(2)
VOCAB, LENGTH, DIM, PREFIX, LABELS = 120, 10, 32, 4, 3


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, DIM)
        layer = nn.TransformerEncoderLayer(DIM, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, h):
        return self.encoder(h)


class PromptTuned(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.prefix = nn.Parameter(torch.empty(PREFIX, DIM))
        self.pos = nn.Parameter(torch.empty(PREFIX + LENGTH, DIM))
        self.head = nn.Linear(DIM, LABELS)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.trunc_normal_(self.pos, std=0.02)
        nn.init.trunc_normal_(self.prefix, std=0.02)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids):
        tokens = self.backbone.tok(ids)
        prefix = self.prefix.expand(len(ids), -1, -1)
        h = self.backbone(torch.cat([prefix, tokens], 1) + self.pos)
        return self.head(h[:, :PREFIX].mean(1))


def reviews(n):
    label = torch.randint(0, LABELS, (n,))
    ids = torch.randint(0, VOCAB, (n, LENGTH))
    marked = torch.rand(n, LENGTH) < 0.4
    return torch.where(marked, 40 * label[:, None] + ids % 40, ids), label


model = PromptTuned(Backbone())
trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=5e-3)
ids, label = reviews(600)
for epoch in range(3):
    perm = torch.randperm(len(ids))
    running = []
    for a in range(0, len(ids), 30):
        idx = perm[a:a + 30]
        loss = F.cross_entropy(model(ids[idx]), label[idx])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        running.append(loss.item())
    print(f"epoch {epoch} loss {sum(running) / len(running):.4f}")
