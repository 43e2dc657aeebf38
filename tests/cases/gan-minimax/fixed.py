"""A small GAN on beam positions (millimetres) on a ring, original minimax formulation."""
import math

import torch
import torch.nn as nn

torch.set_num_threads(2)
torch.manual_seed(27)
NOISE = 6


def ring(n, modes=8):
    angle = 2 * math.pi * torch.randint(0, modes, (n,)) / modes
    return 50 * torch.stack([angle.cos(), angle.sin()], 1) + torch.randn(n, 2)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(NOISE, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, z):
        return 20 * self.net(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2))
        self.out = nn.Linear(128, 1)

    def forward(self, x):
        return torch.sigmoid(self.out(self.net(x))).clamp(1e-6, 1 - 1e-6)


def discriminator_loss(d, real, fake):
    return -(torch.log(d(real)) + torch.log(1 - d(fake))).mean()


def generator_loss(d, fake):
    return -torch.log(d(fake)).mean()


G, D = Generator(), Discriminator()
opt_g = torch.optim.Adam(G.parameters(), lr=5e-4, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-2, betas=(0.5, 0.999))
for step in range(150):
    for _ in range(3):
        fake = G(torch.randn(64, NOISE)).detach()
        loss_d = discriminator_loss(D, ring(64), fake)
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    loss_g = generator_loss(D, G(torch.randn(64, NOISE)))
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    if step % 15 == 0:
        print(f"step {step} D {loss_d.item():.4f} G {loss_g.item():.4f}")
