"""Physics-informed network for the Poisson equation on a disk, trained with L-BFGS."""
import math
import torch
from torch import nn

torch.manual_seed(7)
torch.set_num_threads(1)


def collocation(side=17):
    axis = torch.linspace(-1, 1, side)
    grid = torch.cartesian_prod(axis, axis)
    return grid[(grid ** 2).sum(1) <= 1.0]


class RadialNet(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, xy):
        radius = torch.sqrt((xy ** 2).sum(1, keepdim=True) + 1e-3)
        return self.net(torch.cat([xy, radius], dim=1))


def laplacian(u, xy):
    grad = torch.autograd.grad(u.sum(), xy, create_graph=True)[0]
    total = 0.0
    for k in range(2):
        total = total + torch.autograd.grad(grad[:, k].sum(), xy, create_graph=True)[0][:, k]
    return total


def main():
    inner = collocation().requires_grad_(True)
    theta = torch.linspace(0, 2 * math.pi, 60)
    rim = torch.stack([theta.cos(), theta.sin()], 1)
    model = RadialNet()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    history = {}

    def closure():
        optimizer.zero_grad()
        residual = laplacian(model(inner), inner) + 1.0
        loss_pde = residual.pow(2).mean()
        loss_bc = model(rim).pow(2).mean()
        loss = loss_pde + 10.0 * loss_bc
        loss.backward()
        history.update(pde=loss_pde.item(), bc=loss_bc.item())
        return loss

    for it in range(12):
        optimizer.step(closure)
        print(f"iteration {it:2d} " + " ".join(f"{k} {v:.5f}" for k, v in history.items()))


if __name__ == "__main__":
    main()
