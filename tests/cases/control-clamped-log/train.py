"""Mixed-membership model of shopping baskets with a hand-written categorical likelihood in bfloat16 autocast."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)
torch.manual_seed(71)
PRODUCTS, SEGMENTS = 50, 5


def baskets(n=600):
    profile = torch.rand(SEGMENTS, PRODUCTS) ** 6
    segment = torch.randint(0, SEGMENTS, (n,))
    counts = torch.poisson(3 * profile[segment])
    counts[:7] = 0
    return TensorDataset(counts)


class Membership(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(PRODUCTS, 32), nn.ReLU(), nn.Linear(32, SEGMENTS))
        self.profile = nn.Parameter(20 * torch.randn(SEGMENTS, PRODUCTS))

    def forward(self, counts):
        share = counts / counts.sum(1, keepdim=True).clamp(min=1.0)
        weight = self.encode(share).softmax(-1)
        return weight.float() @ self.profile.softmax(-1)


model = Membership()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
loader = DataLoader(baskets(), batch_size=50, shuffle=True)
for epoch in range(6):
    total = 0.0
    for (counts,) in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            probs = model(counts)
        loss = -(counts * torch.log(probs.float().clamp(min=1e-8))).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item() / len(loader)
    print(f"epoch {epoch} nll {total:.4f}")
