import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
torch.set_num_threads(2)

JOINTS, SIZE, MAP = 3, 48, 24
COLORS = np.eye(3, dtype=np.float32)


def joint_map(x, y, sigma=1.2):
    """Probability map of one joint on the output grid."""
    xs = np.arange(MAP, dtype=np.float32)
    gx = np.exp(-((xs - np.float32(x)) ** 2) / np.float32(2 * sigma ** 2))
    gy = np.exp(-((xs - np.float32(y)) ** 2) / np.float32(2 * sigma ** 2))
    g = np.outer(gy, gx)
    return g / max(g.sum(), 1e-12)


class Skaters(Dataset):
    """Crops around a skater with ankle, knee and hip; coordinates in crop pixels."""

    def __init__(self, n=120, seed=2):
        rng = np.random.default_rng(seed)
        self.joints = rng.uniform(4, SIZE - 4, (n, JOINTS, 2))
        shift = rng.standard_t(2.2, (n, 1, 2)) * 4
        self.joints[:, 1:] += shift
        self.noise = rng.random((n, 3, SIZE, SIZE)).astype(np.float32) * 0.2

    def __len__(self):
        return len(self.joints)

    def __getitem__(self, i):
        img = self.noise[i].copy()
        maps = []
        for (x, y), color in zip(self.joints[i], COLORS):
            r, c = int(y), int(x)
            img[:, max(r - 2, 0):max(r + 3, 0), max(c - 2, 0):max(c + 3, 0)] += color[:, None, None]
            maps.append(joint_map(x * MAP / SIZE, y * MAP / SIZE))
        return torch.from_numpy(img), torch.from_numpy(np.stack(maps))


class Hourglass(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(c, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.Upsample(scale_factor=2))
        self.out = nn.Conv2d(c, JOINTS, 1)

    def forward(self, x):
        x = self.down(x)
        return self.out(x + self.inner(x))


def heatmap_loss(logits, target):
    log_p = logits.flatten(2).log_softmax(dim=2)
    return -(target.flatten(2) * log_p).sum(dim=2).mean()


def train_epoch(model, loader, optimizer):
    total = 0.0
    for img, target in loader:
        loss = heatmap_loss(model(img), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


if __name__ == "__main__":
    loader = DataLoader(Skaters(), batch_size=10, shuffle=True, num_workers=2)
    model = Hourglass()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(3):
        print(f"epoch {epoch + 1} heatmap loss {train_epoch(model, loader, optimizer):.4f}")
