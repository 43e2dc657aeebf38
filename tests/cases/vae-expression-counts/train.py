"""Variational autoencoder for gene expression profiles."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(3)
torch.set_num_threads(1)


def load_expression(cells=600, genes=120):
    programs = torch.randn(6, genes).abs()
    usage = torch.rand(cells, 6).pow(3)
    rate = usage @ programs * 150
    return torch.poisson(rate)


class VAE(nn.Module):
    def __init__(self, genes, hidden=64, latent=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(genes, hidden), nn.ReLU())
        self.mu = nn.Linear(hidden, latent)
        self.logvar = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, genes))

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + std * torch.randn_like(std)

    def forward(self, x):
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = self.reparameterize(mu, logvar)
        return self.decoder(z), mu, logvar


def elbo(recon, x, mu, logvar):
    rec = nn.functional.mse_loss(recon, x, reduction="sum") / len(x)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
    return rec, kld


data = load_expression()
loader = DataLoader(TensorDataset(data), batch_size=50, shuffle=True)
vae = VAE(data.shape[1])
optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
for epoch in range(4):
    for (x,) in loader:
        recon, mu, logvar = vae(x)
        rec, kld = elbo(recon, x, mu, logvar)
        loss = rec + kld
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} rec {rec.item():.2f} kld {kld.item():.2f}")
