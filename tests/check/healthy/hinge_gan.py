"""A GAN with the hinge loss, spectral normalisation and a penalty of the gradient with an eps under the root."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, TensorDataset

LATENT = 8


def main():
    torch.manual_seed(0)
    real = torch.randn(240, 2) * 0.1 + torch.tensor([1.0, -1.0])
    generator = nn.Sequential(nn.Linear(LATENT, 32), nn.BatchNorm1d(32), nn.LeakyReLU(0.2), nn.Linear(32, 2))
    critic = nn.Sequential(
        spectral_norm(nn.Linear(2, 32)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(32, 32)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(32, 1)),
    )
    for_generator = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.0, 0.9))
    for_critic = torch.optim.Adam(critic.parameters(), lr=4e-4, betas=(0.0, 0.9))
    for epoch in range(3):
        for (x,) in DataLoader(TensorDataset(real), batch_size=24, shuffle=True):
            with torch.no_grad():
                fake = generator(torch.randn(len(x), LATENT))
            share = torch.rand(len(x), 1)
            between = (share * x + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            length = (slope.pow(2).sum(1) + 1e-12).sqrt()
            loss_c = F.relu(1 - critic(x)).mean() + F.relu(1 + critic(fake)).mean() + ((length - 1) ** 2).mean()
            for_critic.zero_grad()
            loss_c.backward()
            for_critic.step()

            loss_g = -critic(generator(torch.randn(len(x), LATENT))).mean()
            for_generator.zero_grad()
            loss_g.backward()
            for_generator.step()
        print(epoch, loss_c.item(), loss_g.item())


if __name__ == "__main__":
    main()
