"""Differentially private SGD by hand: per-sample gradients with torch.func, clipped and noised."""
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

torch.manual_seed(45)
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x))).squeeze(-1)


net = Net()
params = {k: v.detach() for k, v in net.named_parameters()}
features = torch.randn(400, 8)
labels = (features[:, 0] > 0).float() * 2 - 1


def hinge(params, x, y):
    return torch.relu(1 - y * functional_call(net, params, (x,)))


per_sample = vmap(grad(hinge), in_dims=(None, 0, 0))


def private_gradient(params, x, y, clip=1.0, noise=0.1):
    grads = per_sample(params, x, y)
    norm = torch.sqrt(sum(g.flatten(1).pow(2).sum(1) for g in grads.values()))
    factor = (clip / norm).clamp(max=1.0)
    out = {}
    for name, g in grads.items():
        unit = g / norm.view(-1, *[1] * (g.dim() - 1))
        scaled = unit * (factor * norm).view(-1, *[1] * (g.dim() - 1))
        out[name] = scaled.mean(0) + noise * clip / len(x) * torch.randn_like(scaled[0])
    return out


for epoch in range(8):
    for idx in torch.randperm(400).split(50):
        step = private_gradient(params, features[idx], labels[idx])
        params = {k: v - 0.2 * step[k] for k, v in params.items()}
    margin = hinge(params, features, labels).mean()
    print(f"epoch {epoch} hinge {margin.item():.4f}")
    if margin.isnan():
        raise SystemExit("hinge loss is nan")
