import torch
from torch import nn
from torch.func import functional_call, grad, vmap

torch.manual_seed(0)
torch.set_num_threads(1)

net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
params = dict(net.named_parameters())


def u(p, r):
    return functional_call(net, p, (r[None],))[0]


def slope_over_r(p, r):
    du = grad(u, argnums=1)(p, r)
    return torch.where(r > 0, du / r, torch.zeros_like(r))


def residual(p, r):
    """u'' + u'/r + 4 on the unit disc, u(1) = 0."""
    d2u = grad(grad(u, argnums=1), argnums=1)(p, r)
    return d2u + slope_over_r(p, r) + 4


optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(150):
    r = torch.rand(64)
    if step % 10 == 9:
        r[0] = 0.0
    res = vmap(residual, in_dims=(None, 0))(params, r)
    edge = u(params, torch.tensor(1.0))
    loss = res.pow(2).mean() + 10 * edge ** 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(step, "pde", res.pow(2).mean().item(), "edge", edge.item())
