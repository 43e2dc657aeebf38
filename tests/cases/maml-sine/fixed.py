"""Second-order MAML on sine regression with a hand-written functional network."""
import math

import torch

torch.set_num_threads(2)
torch.manual_seed(4)


def init_params(sizes=(1, 40, 40, 1)):
    params = []
    for a, b in zip(sizes[:-1], sizes[1:]):
        params.append((torch.randn(a, b) * math.sqrt(2.0 / a)).requires_grad_())
        params.append(torch.zeros(b, requires_grad=True))
    return params


def net(x, params):
    for i in range(0, len(params), 2):
        x = x @ params[i] + params[i + 1]
        if i + 2 < len(params):
            x = torch.relu(x)
    return x


def sample_task(k=10):
    amplitude, phase = 0.1 + 4.9 * torch.rand(()), math.pi * torch.rand(())
    x = 10 * torch.rand(2 * k, 1) - 5
    y = amplitude * torch.sin(x + phase)
    return (x[:k], y[:k]), (x[k:], y[k:])


def adapt(params, support, lr, steps):
    x, y = support
    fast = list(params)
    for _ in range(steps):
        inner = ((net(x, fast) - y) ** 2).mean()
        grads = torch.autograd.grad(inner, fast, create_graph=True)
        fast = [p - lr * g for p, g in zip(fast, grads)]
    return fast


meta = init_params()
meta_opt = torch.optim.Adam(meta, lr=1e-3)
for it in range(60):
    meta_opt.zero_grad()
    loss = 0.0
    for _ in range(4):
        support, query = sample_task()
        fast = adapt(meta, support, lr=0.01, steps=5)
        loss = loss + ((net(query[0], fast) - query[1]) ** 2).mean() / 4
    if loss != loss:
        print(f"iteration {it}: meta loss is {loss.item()}, stopping")
        break
    loss.backward()
    meta_opt.step()
    if it % 10 == 0:
        print(f"iteration {it} meta loss {loss.item():.4f}")
