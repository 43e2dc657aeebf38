"""Coordinate network fitted to a rendered image; linear radiance is tone-mapped before comparison."""
import math

import torch
import torch.nn as nn

torch.set_num_threads(2)
torch.manual_seed(0)
RES = 40


def target_image():
    v, u = torch.meshgrid(torch.linspace(-1, 1, RES), torch.linspace(-1, 1, RES), indexing="ij")
    sun = torch.exp(-((u - 0.3) ** 2 + (v + 0.2) ** 2) * 6)
    sky = 0.3 + 0.2 * v
    rgb = torch.stack([sun, 0.6 * sun + 0.3 * sky, sky], -1).clamp(0, 1)
    coverage = ((1.1 - (u ** 2 + v ** 2).sqrt()) * 6).clamp(0, 1)[..., None]
    rgb = (rgb * coverage) ** (1.0 / 2.2)
    return torch.stack([u, v], -1).reshape(-1, 2), rgb.reshape(-1, 3), coverage.reshape(-1, 1)


class Fourier(nn.Module):
    def __init__(self, bands=5):
        super().__init__()
        self.register_buffer("freq", math.pi * 2.0 ** torch.arange(bands))

    def forward(self, uv):
        phase = (uv[..., None] * self.freq).flatten(-2)
        return torch.cat([phase.sin(), phase.cos()], -1)


class RadianceField(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.encode = Fourier()
        self.fc1, self.fc2 = nn.Linear(20, width), nn.Linear(width, width)
        self.rgb = nn.Linear(width, 3)

    def forward(self, uv):
        h = torch.relu(self.fc1(self.encode(uv)))
        h = torch.relu(self.fc2(h))
        return torch.sigmoid(self.rgb(h))


def tonemap(linear):
    return linear.clamp(min=1e-6) ** (1.0 / 2.2)


def psnr(mse):
    return -10.0 * math.log10(max(mse, 1e-12))


uv, rgb, coverage = target_image()
field = RadianceField()
optimizer = torch.optim.Adam(field.parameters(), lr=5e-3)
order = torch.randperm(len(uv))
cursor = 0
for it in range(300):
    idx = order[cursor:cursor + 128]
    cursor += 128
    if cursor >= len(uv):
        order, cursor = torch.randperm(len(uv)), 0
    pred = tonemap(field(uv[idx]) * coverage[idx])
    loss = ((pred - rgb[idx]) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if it % 50 == 0:
        print(f"iter {it} mse {loss.item():.6f} psnr {psnr(loss.item()):.2f}")
