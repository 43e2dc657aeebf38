"""Variational autoencoder for single-cell transcript counts."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)
GENES, LATENT = 60, 6


def simulate_cells(n=640, seed=4):
    g = torch.Generator().manual_seed(seed)
    programs = torch.rand(4, GENES, generator=g) ** 3
    kind = torch.randint(0, 4, (n,), generator=g)
    depth = torch.exp(1.2 * torch.randn(n, 1, generator=g) + 5.0)
    return torch.poisson(programs[kind] * depth, generator=g)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(GENES, 64)
        self.mu, self.logvar = nn.Linear(64, LATENT), nn.Linear(64, LATENT)

    def forward(self, x):
        h = F.relu(self.fc(x))
        return self.mu(h), self.logvar(h)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Sequential(nn.Linear(LATENT, 64), nn.ReLU(), nn.Linear(64, GENES))

    def forward(self, x):
        mu, logvar = self.encoder(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder(z), mu, logvar


def kl_term(mu, logvar):
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()


class VAETrainer:
    def __init__(self, model, counts, lr):
        self.model = model
        self.loader = DataLoader(TensorDataset(counts), batch_size=32, shuffle=True, drop_last=True)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def losses(self, x):
        rate, mu, logvar = self.model(x)
        recon = F.smooth_l1_loss(rate, torch.log1p(x))
        return {"recon": recon, "kl": 1e-3 * kl_term(mu, logvar)}

    def run(self, epochs):
        for epoch in range(epochs):
            for (x,) in self.loader:
                terms = self.losses(x)
                loss = terms["recon"] + terms["kl"]
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
            print(f"epoch {epoch} " + " ".join(f"{k}={v.item():.4g}" for k, v in terms.items()))


torch.manual_seed(3)
VAETrainer(VAE(), simulate_cells(), lr=1e-3).run(epochs=6)
