"""Fit the hyper-parameters of a Matern-5/2 Gaussian process by maximum marginal likelihood."""
import math
import torch

torch.manual_seed(18)
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


def readings(n=40):
    x = torch.rand(n, 2) * 4
    y = torch.sin(2 * x[:, 0]) * torch.cos(x[:, 1]) + 0.1 * torch.randn(n)
    return x, y - y.mean()


def matern52(x1, x2, lengthscale, outputscale):
    diff = (x1[:, None] - x2[None]) / lengthscale
    r = torch.sqrt(diff.square().sum(-1) + 1e-12)
    s = math.sqrt(5.0) * r
    return outputscale * (1 + s + s.square() / 3) * torch.exp(-s)


def negative_mll(params, x, y):
    lengthscale, outputscale, noise = params["lengthscale"].exp(), params["outputscale"].exp(), params["noise"].exp()
    k = matern52(x, x, lengthscale, outputscale) + (noise + 1e-6) * torch.eye(len(x))
    chol = torch.linalg.cholesky(k)
    alpha = torch.cholesky_solve(y[:, None], chol)
    return 0.5 * (y @ alpha.squeeze(1)) + chol.diagonal().log().sum() + 0.5 * len(x) * math.log(2 * math.pi)


def fit(x, y, iterations=60, step_size=0.01):
    params = {"lengthscale": torch.zeros(2, requires_grad=True),
              "outputscale": torch.zeros((), requires_grad=True),
              "noise": torch.tensor(-2.0, requires_grad=True)}
    for it in range(iterations):
        nll = negative_mll(params, x, y)
        grads = torch.autograd.grad(nll, list(params.values()))
        with torch.no_grad():
            for p, g in zip(params.values(), grads):
                p -= step_size * g.clamp(-10, 10)
        if any(not torch.isfinite(p).all() for p in params.values()):
            print(f"iteration {it}: hyper-parameters are no longer finite, giving up")
            break
        if it % 10 == 0:
            print(f"iteration {it:3d} nll {nll.item():.4f}")
    return params


if __name__ == "__main__":
    fit(*readings())
