"""Fine-tuning a small text classifier whose weights are kept in float16 to save memory."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)
torch.manual_seed(18)
VOCAB, LENGTH, DIM, TOPICS = 300, 12, 32, 4


def headlines(n=480):
    topic = torch.randint(0, TOPICS, (n,))
    ids = (torch.rand(n, LENGTH) * 60).long() + 60 * topic[:, None]
    common = torch.rand(n, LENGTH) < 0.4
    ids[common] = torch.randint(240, 290, (int(common.sum()),))
    return TensorDataset(ids, topic)


class TopicModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        self.hidden = nn.Linear(DIM, 64)
        self.out = nn.Linear(64, TOPICS)

    def forward(self, ids):
        h = self.embed(ids).mean(1)
        return self.out(torch.relu(self.hidden(h)))


def build():
    model = TopicModel().half()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), eps=1e-4)
    return model, optimizer


model, optimizer = build()
loader = DataLoader(headlines(), batch_size=40, shuffle=True)
for epoch in range(4):
    seen, total = 0, 0.0
    for ids, topic in loader:
        logits = model(ids)
        loss = nn.functional.cross_entropy(logits.float(), topic)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(topic)
        seen += len(topic)
    print(f"epoch {epoch} loss {total / seen:.4f}")
