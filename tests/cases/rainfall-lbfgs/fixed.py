"""Gamma distribution of daily rainfall with seasonal scale, fitted by L-BFGS on the full record."""
import math

import torch

torch.set_num_threads(2)
torch.manual_seed(55)


def rainfall(days=1500):
    day = torch.arange(days, dtype=torch.float32)
    season = torch.cos(2 * math.pi * day / 365.25)
    shape = 0.8
    scale = 9.0 + 5.0 * season
    amount = torch.distributions.Gamma(shape, 1.0).sample((days,)) * scale + 0.1
    return season, amount


class SeasonalGamma(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.shape = torch.nn.Parameter(torch.tensor(1.0))
        self.base = torch.nn.Parameter(torch.tensor(3.0))
        self.swing = torch.nn.Parameter(torch.tensor(0.0))

    def scale(self, season):
        return torch.exp(self.base + self.swing * season)

    def log_density(self, amount, season):
        k, theta = self.shape, self.scale(season)
        log_theta = torch.log(theta)
        return (k - 1) * torch.log(amount) - amount / theta - k * log_theta - torch.lgamma(k)


season, amount = rainfall()
model = SeasonalGamma()
optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=5, history_size=6, line_search_fn="strong_wolfe")


def closure():
    optimizer.zero_grad()
    nll = -model.log_density(amount, season).mean()
    nll.backward()
    return nll


for outer in range(12):
    nll = optimizer.step(closure)
    print(f"round {outer:2d} nll {nll.item():.4f} shape {model.shape.item():.3f} base {model.base.item():.3f}")
