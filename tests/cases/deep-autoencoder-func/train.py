"""Deep autoencoder of process logs, trained with torch.func transforms."""
import math
import sys

import torch
import torch.nn as nn
from torch.func import functional_call, grad_and_value

torch.set_num_threads(2)
torch.manual_seed(6)
FEATURES = 128


def process_logs(n=1024):
    factors = torch.randn(n, 6)
    mix = torch.randn(6, FEATURES)
    return torch.tanh(factors @ mix / 2) + 0.05 * torch.randn(n, FEATURES)


class DeepAutoencoder(nn.Module):
    def __init__(self, depth=12, width=256, code=8):
        super().__init__()
        down = [FEATURES] + [width] * depth
        up = [code] + [width] * depth
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in zip(down[:-1], down[1:]))
        self.bottleneck = nn.Linear(width, code)
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in zip(up[:-1], up[1:]))
        self.reconstruct = nn.Linear(width, FEATURES)
        self.apply(self.initialise)

    @staticmethod
    def initialise(module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0)
            nn.init.zeros_(module.bias)

    def forward(self, x):
        for layer in self.encoder:
            x = torch.relu(layer(x))
        x = self.bottleneck(x)
        for layer in self.decoder:
            x = torch.relu(layer(x))
        return self.reconstruct(x)


def main():
    model = DeepAutoencoder()
    data = process_logs()
    params = {k: v.detach() for k, v in model.named_parameters()}

    def reconstruction_loss(p, x):
        out = functional_call(model, p, (x,))
        return ((out - x) ** 2).mean()

    step_fn = grad_and_value(reconstruction_loss)
    lr = 1e-3
    for epoch in range(3):
        for x in data[torch.randperm(len(data))].split(64):
            grads, loss = step_fn(params, x)
            if not math.isfinite(loss.item()):
                print(f"Loss is {loss.item()}, stopping training")
                sys.exit(1)
            params = {k: p - lr * grads[k] for k, p in params.items()}
        print(f"epoch {epoch} reconstruction {loss.item():.4f}")


main()
