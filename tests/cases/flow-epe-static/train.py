import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(12)
torch.set_num_threads(2)


class DroneFlow(Dataset):
    """Two frames of a textured background with one moving sprite, and the flow from the first to the second."""

    def __init__(self, n=64, size=32, seed=2):
        g = torch.Generator().manual_seed(seed)
        self.items = []
        for _ in range(n):
            base = F.interpolate(torch.rand(1, 1, 8, 8, generator=g), size=size, mode="bilinear")[0]
            sprite = torch.rand(1, 8, 8, generator=g)
            y, x = torch.randint(6, size - 14, (2,), generator=g).tolist()
            dx, dy = torch.randint(-4, 5, (2,), generator=g).tolist()
            a, b = base.clone(), base.clone()
            a[:, y:y + 8, x:x + 8] = sprite
            b[:, y + dy:y + dy + 8, x + dx:x + dx + 8] = sprite
            flow = torch.zeros(2, size, size)
            flow[0, y:y + 8, x:x + 8] = dx
            flow[1, y:y + 8, x:x + 8] = dy
            self.items.append((a, b, flow))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class IterativeFlow(nn.Module):
    """Starts from zero flow and adds a correction in every iteration."""

    def __init__(self, c=16, iters=3):
        super().__init__()
        self.iters = iters
        self.encoder = nn.Sequential(nn.Conv2d(1, c, 5, 1, 2), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1))
        self.update = nn.Sequential(nn.Conv2d(2 * c + 2, 2 * c, 3, 1, 1), nn.ReLU(), nn.Conv2d(2 * c, c, 3, 1, 1), nn.ReLU())
        self.delta = nn.Conv2d(c, 2, 3, 1, 1)
        nn.init.zeros_(self.delta.weight)
        nn.init.zeros_(self.delta.bias)

    def forward(self, a, b):
        fa, fb = self.encoder(a), self.encoder(b)
        flow = torch.zeros(a.size(0), 2, *a.shape[-2:])
        predictions = []
        for _ in range(self.iters):
            flow = flow.detach() + self.delta(self.update(torch.cat([fa, fb, flow], dim=1)))
            predictions.append(flow)
        return predictions


def epe(flow, gt):
    return ((flow - gt) ** 2).sum(dim=1).sqrt().mean()


def sequence_loss(predictions, gt, decay=0.8):
    n = len(predictions)
    return sum(decay ** (n - i - 1) * epe(p, gt) for i, p in enumerate(predictions))


loader = DataLoader(DroneFlow(), batch_size=4, shuffle=True)
model = IterativeFlow()
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=1e-5)
warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=20)
for epoch in range(2):
    for it, (a, b, gt) in enumerate(loader):
        predictions = model(a, b)
        loss = sequence_loss(predictions, gt)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warmup.step()
        if it % 8 == 0:
            print(f"epoch {epoch} it {it} loss {loss.item():.4f} epe {epe(predictions[-1].detach(), gt).item():.4f}")
