import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(105)
torch.set_num_threads(2)


class Labels(Dataset):
    """Bottles on the line: label straight (0), tilted (1) or missing (2: an even grey frame)."""

    def __init__(self, n=150, size=24):
        g = torch.Generator().manual_seed(2)
        self.y = torch.randint(0, 3, (n,), generator=g)
        self.x = torch.full((n, 1, size, size), 128.0)
        ramp = torch.arange(size)
        for i in range(n):
            if self.y[i] == 0:
                self.x[i, 0, 8:16, 4:20] = 255.0
            elif self.y[i] == 1:
                self.x[i, 0][(ramp[:, None] - ramp[None]).abs() < 5] = 255.0
            if self.y[i] < 2:
                self.x[i] += 10 * torch.randn(1, size, size, generator=g)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        img = self.x[i]
        return (img - img.mean()) / (img.std() + 1e-5), self.y[i]


class Classifier(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, c, 3, 2, 1), nn.InstanceNorm2d(c, affine=True), nn.ReLU(),
                                  nn.Conv2d(c, c, 3, 2, 1), nn.GroupNorm(3, c), nn.ReLU())
        self.fc = nn.Linear(c * 36, 3)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


loader = DataLoader(Labels(), batch_size=10, shuffle=True)
model = Classifier()
optimizer = torch.optim.SGD(model.parameters(), lr=0.15, momentum=0.8)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6 * len(loader))
for epoch in range(6):
    worst = total = 0.0
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        worst, total = max(worst, loss.item()), total + loss.item()
    print(f"epoch {epoch} mean {total / len(loader):.3f} worst {worst:.3f} lr {scheduler.get_last_lr()[0]:.3f}")
