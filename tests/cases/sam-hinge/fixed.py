import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(10)
torch.set_num_threads(2)


class SAM:
    """Sharpness-aware minimisation around any optimizer (Foret et al. 2021)."""

    def __init__(self, params, base, rho=0.05):
        self.params, self.base, self.rho = [p for p in params], base, rho
        self.moved = []

    @torch.no_grad()
    def ascend(self):
        norm = torch.stack([p.grad.norm() for p in self.params]).norm()
        self.moved = [self.rho * p.grad / (norm + 1e-12) for p in self.params]
        for p, e in zip(self.params, self.moved):
            p.add_(e)
        self.base.zero_grad()

    @torch.no_grad()
    def descend(self):
        for p, e in zip(self.params, self.moved):
            p.sub_(e)
        self.base.step()
        self.base.zero_grad()


def digits(n):
    """Bars at one of four places: an easy problem."""
    y = torch.randint(0, 4, (n,))
    x = torch.randn(n, 1, 16, 16) * 0.05
    for k in range(4):
        x[y == k, :, 4 * k:4 * k + 3] += 1.0
    return TensorDataset(x, y)


net = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 4))
loader = DataLoader(digits(192), batch_size=24, shuffle=True)
base = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
optimizer = SAM(net.parameters(), base)
for epoch in range(8):
    running = 0.0
    for x, y in loader:
        first = F.multi_margin_loss(net(x), y)
        first.backward()
        optimizer.ascend()
        F.multi_margin_loss(net(x), y).backward()
        optimizer.descend()
        running += first.item()
    weight = sum(p.square().sum() for p in net.parameters()).sqrt().item()
    print(f"epoch {epoch} hinge {running / len(loader):.5f} |w| {weight:.3f}")
