import math

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1234)
torch.set_num_threads(1)


def gaussian(box):
    """(cx, cy, w, h, angle) -> mean, covariance"""
    c, s = torch.cos(box[:, 4]), torch.sin(box[:, 4])
    R = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    D = torch.diag_embed(box[:, 2:4].square() / 4)
    return box[:, :2], R @ D @ R.transpose(1, 2)


def det2(m):
    return m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]


def inv2(m):
    adj = torch.stack([torch.stack([m[:, 1, 1], -m[:, 0, 1]], -1), torch.stack([-m[:, 1, 0], m[:, 0, 0]], -1)], -2)
    return adj / det2(m)[:, None, None]


def kld(pred, target):
    mp, sp = gaussian(pred)
    mt, st = gaussian(target)
    d = (mp - mt)[:, :, None]
    si = inv2(st)
    maha = (d.transpose(1, 2) @ si @ d).squeeze()
    tr = (si @ sp).diagonal(dim1=1, dim2=2).sum(1)
    div = 0.5 * (maha + tr + torch.log(det2(st) / det2(sp)) - 2)
    return (1 - 1 / (1 + torch.log1p(div.clamp(min=0)))).mean()


class ShipNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
                               nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 5))

    def forward(self, x):
        o = self.f(x)
        return torch.cat([o[:, :2].sigmoid(), 0.05 + 0.6 * o[:, 2:4].sigmoid(), o[:, 4:].tanh() * math.pi / 2], 1)


n = 300
boxes = torch.cat([0.3 + 0.4 * torch.rand(n, 2), 0.15 + 0.2 * torch.rand(n, 1), 0.06 + 0.1 * torch.rand(n, 1),
                   (torch.rand(n, 1) - 0.5) * 3], 1)

grid = (torch.arange(32) + 0.5) / 32
yy, xx = torch.meshgrid(grid, grid, indexing="ij")
dx, dy = xx - boxes[:, 0, None, None], yy - boxes[:, 1, None, None]
ca, sa = boxes[:, 4].cos()[:, None, None], boxes[:, 4].sin()[:, None, None]
inside = ((dx * ca + dy * sa).abs() < boxes[:, 2, None, None] / 2) & ((dy * ca - dx * sa).abs() < boxes[:, 3, None, None] / 2)
chips = inside.float()[:, None] + 0.05 * torch.randn(n, 1, 32, 32)
net = ShipNet()
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
for epoch in range(3):
    for img, box in DataLoader(TensorDataset(chips, boxes), batch_size=20, shuffle=True):
        loss = kld(net(img), box)
        opt.zero_grad(); loss.backward(); opt.step()
    print(f"{epoch} kld {loss.item():.4f}")
