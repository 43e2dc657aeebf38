"""A short range test of the learning rate on the recorded batch: one step along the gradient, of several lengths."""

import math
from typing import Any

import torch

from whynan.adapters.torch.check.program import Program
from whynan.check.graph import Graph
from whynan.check.review.facts import OptimizerFacts

_FACTORS = (1.0, 0.1, 0.01)
_MAX_NODES = 4000


def rate_test(graph: Graph, program: Program, optimizer: OptimizerFacts) -> tuple[tuple[float, float], ...]:
    """Return (rate, loss) for a hundredth, a tenth and the whole of the configured rate; first the loss at rate 0."""
    rate = max(optimizer.rates, default=0.0)
    if not graph.roots or rate <= 0 or len(graph.nodes) > _MAX_NODES:
        return ()
    root = graph.roots[-1]
    wanted = graph.ancestors(root)
    leaves = [i for i in sorted(wanted) if graph.nodes[i].kind == "parameter" and program.leaves[i].is_floating_point()]
    if not leaves:
        return ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = {i: program.leaves[i].detach().clone().requires_grad_() for i in leaves}
        loss = program.run(wanted, {i: v * 1 for i, v in given.items()}, graph, grad=True)[root]
        gradients = torch.autograd.grad(loss.sum(), list(given.values()), allow_unused=True)
        found = [(0.0, float(loss.detach().sum()))]
        for factor in _FACTORS:
            moved = {
                i: _stepped(v.detach(), g, rate * factor, optimizer) for (i, v), g in zip(given.items(), gradients)
            }
            torch.manual_seed(0)
            value = program.run(wanted, moved, graph)[root]
            found.append((rate * factor, float(value.sum())))
            if factor == 1.0 and found[-1][1] <= 2 * abs(found[0][1]):
                break  # the whole step is fine: shorter ones need no trial
    return tuple(sorted(found)) if math.isfinite(found[0][1]) else ()


def _stepped(value: Any, gradient: Any, rate: float, optimizer: OptimizerFacts) -> Any:
    if gradient is None:
        return value
    if optimizer.kind in ("SGD",):
        return value - rate * gradient
    return value - rate * torch.sign(gradient)  # the first step of an adaptive method is of that size
