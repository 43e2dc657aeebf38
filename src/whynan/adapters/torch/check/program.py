"""The recorded step as a program: the same operations again on other values of its leaves; a range test of the rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from whynan.check.graph import Graph
from whynan.check.review.facts import OptimizerFacts

GRAPH_STRIDE = 10_000_000
"""Where nodes of several steps are told apart by their number: number of the step times this, plus the node's own."""


@dataclass(frozen=True)
class Ref:
    """Stands in a call's arguments for the tensor of a node."""

    node: int


@dataclass(frozen=True)
class Call:
    """One operation. `outputs` are the nodes of its tensors, in their order; None for one that nothing is known of."""

    func: Any
    args: Any
    kwargs: Any
    outputs: tuple[int, ...]


@dataclass
class Program:
    """Calls by the node of their first output, leaves' values by node, and views of the same memory."""

    calls: dict[int, Call] = field(default_factory=dict)
    leaves: dict[int, Any] = field(default_factory=dict)
    same_as: dict[int, int] = field(default_factory=dict)
    """Nodes that are another node's memory, written to meanwhile."""

    def run(self, wanted: set[int], values: Mapping[int, Any], graph: Any, grad: bool = False) -> dict[int, Any]:
        """Run the calls of the nodes `wanted`, in order; returns every tensor by node.

        Args:
            wanted: nodes, their ancestors included.
            values: tensors for some of the leaves; the others are as recorded.
            graph: the graph that the nodes are of.
            grad: keep what a backward pass needs, as the step itself did.
        """
        env: dict[int, Any] = {}

        def value(leaf: Any) -> Any:
            return env[leaf.node] if isinstance(leaf, Ref) else leaf

        for index in sorted(wanted):
            if index in env:
                continue
            node = graph.nodes[index]
            if index in values:
                env[index] = values[index]
            elif index in self.same_as:
                env[index] = env[self.same_as[index]]
            elif index in self.calls:
                call = self.calls[index]
                with torch.set_grad_enabled(grad and node.differentiable):
                    out = call.func(*_filled(call.args, value), **_filled(call.kwargs, value))
                env.update(zip(call.outputs, [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]))
            elif index in self.leaves:
                leaf = self.leaves[index]
                env[index] = leaf.clone() if node.attrs.get("mutated") else leaf
        return env


def _filled(tree: Any, value: Any) -> Any:
    return tree_map(value, tree, is_leaf=lambda leaf: isinstance(leaf, Ref))


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
