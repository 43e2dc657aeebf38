"""Bayesian regression net sampled with Hamiltonian Monte Carlo; the step size is tuned during warm-up."""
import math

import torch

torch.manual_seed(6)


def problem(n=60):
    x = torch.linspace(-2, 2, n).unsqueeze(1)
    return x, torch.sin(2 * x) + 0.1 * torch.randn_like(x)


x, y = problem()
SHAPES = [(1, 12), (12,), (12, 1), (1,)]
SIZES = [math.prod(s) for s in SHAPES]


def energy(theta):
    w1, b1, w2, b2 = (part.view(s) for part, s in zip(theta.split(SIZES), SHAPES))
    out = (x @ w1 + b1).pow(3) @ w2 + b2
    return 0.5 * ((out - y) / 0.1).pow(2).sum() + 0.5 * theta.pow(2).sum()


def gradient(theta):
    theta = theta.detach().requires_grad_()
    value = energy(theta)
    value.backward()
    return value.detach(), theta.grad


def leapfrog(theta, momentum, eps, steps=10):
    value, grad = gradient(theta)
    for _ in range(steps):
        momentum = momentum - 0.5 * eps * grad
        theta = theta + eps * momentum
        value, grad = gradient(theta)
        momentum = momentum - 0.5 * eps * grad
    return theta, momentum, value


theta, eps, accepted = 0.3 * torch.randn(sum(SIZES)), 0.2, 0
current, _ = gradient(theta)
for draw in range(150):
    momentum = torch.randn_like(theta)
    proposal, p, potential = leapfrog(theta, momentum, eps)
    delta = (current + 0.5 * momentum.pow(2).sum() - potential - 0.5 * p.pow(2).sum()).item()
    accept = math.isfinite(delta) and math.log(torch.rand(()).item() + 1e-12) < delta
    if accept:
        theta, current, accepted = proposal, potential, accepted + 1
    if draw < 80:
        eps *= 1.1 if accept else 0.8
    if draw % 15 == 0:
        print(f"draw {draw:3d} energy {current.item():9.3f} step size {eps:.5f} accepted {accepted}")
