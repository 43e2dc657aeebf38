import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.manual_seed(13)
torch.set_num_threads(2)

GRID, CELL = 6, 8


def make_tiles(n=60):
    """Solar cells seen from a drone; every grid cell is empty or holds one hot spot."""
    has = (torch.rand(n, GRID, GRID) < 0.15).float()
    off = torch.rand(n, 2, GRID, GRID)
    img = torch.randn(n, 1, GRID * CELL, GRID * CELL) * 0.1
    for b, r, c in has.nonzero().tolist():
        y = int((r + off[b, 1, r, c]) * CELL)
        x = int((c + off[b, 0, r, c]) * CELL)
        img[b, 0, max(y - 2, 0):y + 2, max(x - 2, 0):x + 2] = 2.0
    return TensorDataset(img, has, off)


def block(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1), nn.LeakyReLU(0.1))


class HotSpotNet(nn.Module):
    """Single-stage detector: per cell an objectness score and the offset of the centre."""

    def __init__(self, width=32, depth=18):
        super().__init__()
        self.stem = nn.Sequential(block(1, width, 2), block(width, width, 2), block(width, width, 2))
        self.body = nn.Sequential(*[block(width, width) for _ in range(depth)])
        self.obj = nn.Conv2d(width, 1, 1)
        self.off = nn.Conv2d(width, 2, 1)
        self.apply(self.init_weights)

    @staticmethod
    def init_weights(m):
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, a=0.1)
            nn.init.zeros_(m.bias)

    def forward(self, x):
        f = self.body(self.stem(x))
        return self.obj(f).squeeze(1), self.off(f)


def detection_loss(obj, off, has, target):
    l_obj = nn.functional.binary_cross_entropy_with_logits(obj, has)
    err = ((off - target) ** 2).sum(dim=1)
    l_off = (err * has).sum() / has.sum()
    return l_obj, l_off


train_set, val_set = random_split(make_tiles(), [50, 10])
loader = DataLoader(train_set, batch_size=10, shuffle=True, drop_last=True)
model = HotSpotNet()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
for epoch in range(4):
    seen = 0.0
    for img, has, target in loader:
        obj, off = model(img)
        l_obj, l_off = detection_loss(obj, off, has, target)
        loss = l_obj + 5 * l_off
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += loss.item()
    print(f"epoch {epoch}: loss {seen / len(loader):.4f} (obj {l_obj.item():.4f}, offset {l_off.item():.4f})")
