import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset

torch.manual_seed(0)
torch.set_num_threads(2)


class Flight(Dataset):
    """Frames of a flight with one object each; the recorded exposure time makes their brightness comparable."""

    def __init__(self, n=60, size=32):
        rng = np.random.default_rng(5)
        self.exposure = rng.uniform(0.5, 2.0, n).astype(np.float32)
        self.exposure[53] = 0.0
        self.centre = rng.integers(6, size - 6, (n, 2))
        self.size = size

    def __len__(self):
        return len(self.exposure)

    def __getitem__(self, i):
        rng = np.random.default_rng(100 + i)
        raw = rng.uniform(0.05, 0.3, (1, self.size, self.size)).astype(np.float32)
        x, y = self.centre[i]
        raw[0, y - 4:y + 4, x - 4:x + 4] += 0.5
        with np.errstate(all="ignore"):
            img = raw * max(self.exposure[i], 0.2) / max(self.exposure[i], 0.2)
        return torch.from_numpy(img), torch.tensor([x, y], dtype=torch.float32) / self.size


class Locator(nn.Module):
    """Returns losses in training mode and predictions in evaluation mode."""

    def __init__(self, c=12):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, c, 3, 2, 1), nn.GroupNorm(4, c), nn.ReLU(),
                                  nn.Conv2d(c, c, 3, 2, 1), nn.GroupNorm(4, c), nn.ReLU())
        self.heat, self.offset = nn.Conv2d(c, 1, 1), nn.Conv2d(c, 2, 1)

    def forward(self, images, centres=None):
        f = self.body(images)
        heat, offset = self.heat(f).flatten(1), self.offset(f).flatten(2)
        if not self.training:
            return heat.argmax(1)
        w = f.size(3)
        place = centres * w
        cell = (place[:, 1].long() * w + place[:, 0].long()).clamp(0, w * w - 1)
        picked = offset[torch.arange(len(cell)), :, cell]
        return {"heat": F.cross_entropy(heat, cell), "offset": F.smooth_l1_loss(picked, place - place.floor())}


@torch.no_grad()
def validation_loss(model, loader):
    model.train()
    sums = {}
    for images, centres in loader:
        for name, value in model(images, centres).items():
            sums[name] = sums.get(name, 0.0) + value.item() / len(loader)
    return sums


flight = Flight()
train_loader = DataLoader(Subset(flight, range(40)), 4, shuffle=True)
val_loader = DataLoader(Subset(flight, range(40, 60)), 4)
model = Locator()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for epoch in range(2):
    model.train()
    for images, centres in train_loader:
        loss = sum(model(images, centres).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} train {loss.item():.3f}", validation_loss(model, val_loader))
