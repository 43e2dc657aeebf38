"""A diffusion model on points: noise schedule, time embedding, the noise predicted."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

STEPS = 100


def schedule(steps=STEPS):
    t = torch.linspace(0, 1, steps + 1)
    bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    bar = bar / bar[0]
    beta = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - beta, 0)


def embedding(t, dim=32):
    rates = torch.exp(-math.log(10000) * torch.arange(dim // 2) / (dim // 2))
    angles = t[:, None].float() * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class Denoiser(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, dim), nn.SiLU())
        self.point = nn.Linear(2, dim)
        self.body = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim), nn.LayerNorm(dim), nn.SiLU(), nn.Linear(dim, 2))

    def forward(self, x, t):
        return self.body(self.point(x) + self.time(embedding(t)))


def main():
    torch.manual_seed(0)
    angle = torch.rand(400) * 2 * math.pi
    points = torch.stack([angle.cos(), angle.sin()], 1)
    bar = schedule()
    model = Denoiser()
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    for epoch in range(3):
        for (x,) in DataLoader(TensorDataset(points), batch_size=50, shuffle=True):
            t = torch.randint(0, STEPS, (len(x),))
            noise = torch.randn_like(x)
            a = bar[t][:, None]
            noisy = a.sqrt() * x + (1 - a).sqrt() * noise
            predicted = model(noisy, t)
            weight = torch.minimum(a / (1 - a), torch.tensor(5.0))
            loss = (weight * F.mse_loss(predicted, noise, reduction="none")).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for name, p in model.named_parameters():
                    average[name].lerp_(p, 0.01)
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
