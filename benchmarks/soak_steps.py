"""A small model trained for many steps, with faults of many kinds at random places; prints what it did as JSON."""

import json
import random
import sys

import torch
from torch import nn

STEPS, SEED, FAULTS = int(sys.argv[1]), int(sys.argv[3]), json.loads(sys.argv[2])
torch.manual_seed(SEED)
torch.set_num_threads(1)
x = torch.rand(256, 8) + 0.1
y = x.sum(1, keepdim=True).sin()
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
zero, one = torch.zeros(()), torch.ones(())


def spoil_input(xb, yb, loss):
    xb[3, 2] = float("nan")
    return ((model(xb) - yb) ** 2).mean()


def spoil_target(xb, yb, loss):
    return ((model(xb) - yb / zero) ** 2).mean()


def log_of_zero(xb, yb, loss):
    return loss + torch.log(zero * loss)


def division_by_zero(xb, yb, loss):
    return loss + loss / (loss - loss)


def sqrt_at_zero(xb, yb, loss):
    return loss + torch.sqrt(loss * zero)


def norm_of_zero(xb, yb, loss):
    return loss + ((loss * zero) ** 2).sum().pow(0.25)


def exp_overflow(xb, yb, loss):
    return loss + torch.exp(loss + 200.0)


def domain_error(xb, yb, loss):
    return loss + torch.acos(one + loss.abs() + 0.5)


def where_trap(xb, yb, loss):
    bad = loss * zero
    return loss + torch.where(bad > 0, torch.log(bad), bad)


def empty_mean(xb, yb, loss):
    return loss + model(xb)[yb > 99].mean()


def half_overflow(xb, yb, loss):
    return loss + (loss.half() + 60000).square().float()


def masked_softmax(xb, yb, loss):
    scores = model(xb).squeeze(1)
    return loss + torch.softmax(scores.masked_fill(scores < 1e9, -torch.inf), 0).sum()


def spoil_gradient(xb, yb, loss):
    place = step
    model[0].weight.register_hook(lambda gradient: gradient * torch.inf if step == place else None)
    return loss


def spoil_update(xb, yb, loss):
    optimizer.param_groups[0]["lr"] = float("inf")
    return loss


def spoil_statistics(xb, yb, loss):
    model[1].running_var.data[2] = float("inf")
    return loss


def huge_loss(xb, yb, loss):
    return loss * 1e30 * 1e30


KINDS = [
    spoil_input, spoil_target, log_of_zero, division_by_zero, sqrt_at_zero, norm_of_zero, exp_overflow, domain_error,
    where_trap, empty_mean, half_overflow, masked_softmax, spoil_gradient, huge_loss,
    spoil_update, spoil_statistics,
]  # fmt: skip
if isinstance(FAULTS, int):
    choice = random.Random(SEED)
    places = choice.sample(range(20, STEPS), FAULTS)
    kinds = {place: KINDS[n % len(KINDS)] for n, place in enumerate(places)}
else:
    kinds = {place: next(kind for kind in KINDS if kind.__name__ == name) for place, name in FAULTS}


def resident() -> int:
    """Return this process's resident memory in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


memory = []
for step in range(STEPS):
    optimizer.param_groups[0]["lr"] = 1e-3
    rows = torch.randint(0, 256, (32,))
    xb, yb = x[rows], y[rows]
    loss = ((model(xb) - yb) ** 2).mean()
    if step in kinds:
        loss = kinds[step](xb, yb, loss)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % max(STEPS // 20, 1) == STEPS // 40:
        memory.append(resident())
finite = all(bool(p.isfinite().all()) for p in [*model.parameters(), *model.buffers()])
made = [[place, kinds[place].__name__] for place in sorted(kinds)]
print(json.dumps({"faults": made, "memory": memory, "loss": float(loss.detach()), "finite": finite}))
