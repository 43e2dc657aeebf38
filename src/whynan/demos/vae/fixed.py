"""A variational autoencoder on points of very different scale, as sensors give them."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class VAE(nn.Module):
    def __init__(self, n_features: int, n_latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_features, 64), nn.ReLU(), nn.Linear(64, 2 * n_latent))
        self.decoder = nn.Sequential(nn.Linear(n_latent, 64), nn.ReLU(), nn.Linear(64, n_features))

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        deviation = torch.exp(0.5 * log_variance)
        return self.decoder(mean + deviation * torch.randn_like(mean)), mean, log_variance


def elbo(reconstruction, x, mean, log_variance):
    reconstruction_error = F.mse_loss(reconstruction, x)
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()
    return reconstruction_error + 1e-3 * divergence


def readings(n: int) -> torch.Tensor:
    """Temperature, pressure in Pa, flow and six more; one pump in 400 reports its pressure in another unit."""
    table = torch.randn(n, 9) * torch.tensor([1.0, 3.0, 0.5, 1.0, 1.0, 2.0, 1.0, 0.1, 1.0])
    table[211::400, 1] += 6894.0
    return (table - table.median(dim=0).values).clamp(-10, 10)


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(readings(800)), batch_size=32, shuffle=True)
    model = VAE(n_features=9, n_latent=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(4):
        for (x,) in loader:
            reconstruction, mean, log_variance = model(x)
            loss = elbo(reconstruction, x, mean, log_variance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}  loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
