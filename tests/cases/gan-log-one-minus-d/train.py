import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(23)
torch.set_num_threads(2)

Z = 12


def ring_images(n=192, size=16):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    c = torch.rand(n, 2, 1, 1) * 4 + 6
    d = ((y - c[:, 0]) ** 2 + (x - c[:, 1]) ** 2).float().sqrt()
    return (torch.exp(-(d - 4) ** 2)[:, None] * 2 - 1) * 0.95


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(Z, 32 * 16)
        self.net = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16),
                                 nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        return self.net(self.fc(z).view(-1, 32, 4, 4))


class Discriminator(nn.Module):
    def __init__(self, c=24, temperature=0.02):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, c, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(c, 2 * c, 4, 2, 1),
                                 nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(2 * c * 16, 1))
        self.temperature = temperature

    def forward(self, x):
        """Probability that the image is generated."""
        return torch.sigmoid(self.net(x) / self.temperature)


def log_complement(score):
    return torch.log(1 - score)


class GAN:
    def __init__(self, lr_d, lr_g):
        self.G, self.D = Generator(), Discriminator()
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=lr_d, betas=(0.5, 0.999))
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=lr_g, betas=(0.5, 0.999))

    def discriminator_step(self, real):
        fake = self.G(torch.randn(len(real), Z)).detach()
        d_real, d_fake = self.D(real), self.D(fake)
        loss_real = -log_complement(d_real).mean()
        loss_fake = -torch.log(d_fake + 1e-12).mean()
        self.opt_d.zero_grad()
        (loss_real + loss_fake).backward()
        self.opt_d.step()
        return loss_real.item(), loss_fake.item()

    def generator_step(self, n):
        score = self.D(self.G(torch.randn(n, Z)))
        loss = -log_complement(score).mean()
        self.opt_g.zero_grad()
        loss.backward()
        self.opt_g.step()
        return loss.item()

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            for (real,) in loader:
                d_real, d_fake = self.discriminator_step(real)
                g = self.generator_step(len(real))
            print(f"epoch {epoch} D(real) {d_real:.4f} D(fake) {d_fake:.4f} G {g:.4f}")


if __name__ == "__main__":
    loader = DataLoader(TensorDataset(ring_images()), batch_size=16, shuffle=True, drop_last=True)
    GAN(lr_d=4e-3, lr_g=5e-5).fit(loader, epochs=4)
