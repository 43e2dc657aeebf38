import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

torch.manual_seed(18)
torch.set_num_threads(2)

IDS, SIZE = 40, 24


class Whiskers(Dataset):
    """Nose prints of seals. Some animals have been photographed many times, many only once."""

    def __init__(self):
        g = torch.Generator().manual_seed(1)
        prints = torch.rand(IDS, 1, SIZE, SIZE, generator=g)
        self.x, self.y = [], []
        for k in range(IDS):
            shots = 1 if k % 2 else 6
            for _ in range(shots):
                self.x.append(prints[k] + 0.1 * torch.randn(1, SIZE, SIZE, generator=g))
                self.y.append(k)
        self.y = torch.tensor(self.y)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Embedder(nn.Module):
    def __init__(self, dim=32, c=16):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, c, 3, 2, 1), nn.PReLU(), nn.Conv2d(c, 2 * c, 3, 2, 1), nn.PReLU(),
                                 nn.Flatten(), nn.Linear(2 * c * 36, dim))

    def forward(self, x):
        return self.net(x)


class AngularMargin(nn.Module):
    def __init__(self, dim, classes, scale=16.0, margin=0.3):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.randn(classes, dim))

    @torch.no_grad()
    def imprint(self, features, labels):
        """Class vectors start at the mean of the (unit length) features of the class."""
        f = F.normalize(features)
        for k in labels.unique().tolist():
            self.weight[k] = f[labels == k].mean(dim=0)

    def forward(self, features, labels):
        cosine = F.linear(F.normalize(features), F.normalize(self.weight))
        theta = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
        target = F.one_hot(labels, cosine.size(1)).bool()
        theta = torch.where(target, (theta + self.margin).clamp(max=math.pi), theta)
        return self.scale * torch.cos(theta)


data = Whiskers()
counts = torch.bincount(data.y).float()
sampler = WeightedRandomSampler((1 / counts)[data.y], num_samples=len(data))
loader = DataLoader(data, batch_size=28, sampler=sampler)

backbone = Embedder()
head = AngularMargin(32, IDS)
with torch.no_grad():
    features = torch.cat([backbone(torch.stack([data[i][0]])) for i in range(len(data))])
head.imprint(features, data.y)

optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.02, momentum=0.9)
for epoch in range(6):
    total, right = 0.0, 0
    for x, y in loader:
        logits = head(backbone(x), y)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        right += (logits.argmax(dim=1) == y).sum().item()
    print(f"epoch {epoch} loss {total / len(loader):.4f} top1 {right / len(data):.3f}")
