"""The recorded step as a program: the same operations again on other values, and what comes out non-finite."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from whynan.check.graph import Graph, Node
from whynan.check.review import OptimizerFacts
from whynan.check.witness import Replayed, Saved
from whynan.errors import WitnessError

if TYPE_CHECKING:
    from whynan.adapters.torch.check.search import TorchSearch


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


Values = dict[int, Any]
_FAILED = (RuntimeError, IndexError, ValueError, TypeError, KeyError)


@dataclass
class Outcome:
    """A whole step: its loss, and the parameters whose gradients are non-finite."""

    loss: Any
    gradients: list[str]


def run_step(graph: Graph, program: Program, root: int, values: Values) -> Outcome | None:
    """Run forward and backward pass of the recorded step on `values`; None where it can't be run."""
    wanted = graph.ancestors(root)
    given, tracked = dict(values), {}
    for index in sorted(wanted):
        node = graph.nodes[index]
        if node.kind in ("parameter", "gradient") and index in program.leaves:
            value = values.get(index, program.leaves[index])
            if value.is_floating_point():
                tracked[index] = value.detach().clone().requires_grad_()
                given[index] = tracked[index] * 1
    try:
        loss = program.run(wanted, given, graph, grad=True)[root]
        if not loss.requires_grad:
            return Outcome(loss.detach(), [])
        gradients = torch.autograd.grad(loss.sum(), list(tracked.values()), allow_unused=True)
    except _FAILED:
        return None
    bad = [
        graph.nodes[index].name or "a parameter"
        for index, gradient in zip(tracked, gradients)
        if gradient is not None and not bool(torch.isfinite(gradient).all())
    ]
    return Outcome(loss.detach(), bad)


# Leaves of one run in another ---------------------------------------------------------------------------------------


def describe(search: "TorchSearch") -> dict[int, dict[str, Any]]:
    """Return for each leaf what it is, and the how many-th of those that are the same."""
    seen: dict[Any, int] = {}
    found = {}
    for node in search.graph.nodes:
        is_batch = node.index in search.batch
        if not is_batch and (
            node.kind not in ("parameter", "data", "gradient") or node.index not in search.program.leaves
        ):
            continue
        about: dict[str, Any] = {"kind": "batch" if is_batch else node.kind, "name": node.name, "dtype": node.dtype}
        key = tuple(about.values())
        about["ordinal"] = seen[key] = seen.get(key, -1) + 1
        found[node.index] = {**about, "shape": list(node.shape)}
    return found


def matched(search: "TorchSearch", saved: Saved) -> Values:
    """Return the saved values by the leaves of this run; raises WitnessError where one is not there any more."""
    same = ("kind", "name", "dtype", "ordinal")
    here = {tuple(about[k] for k in same): index for index, about in describe(search).items()}
    values = {}
    for name, about in saved.leaves.items():
        index = here.get(tuple(about[k] for k in same))
        if index is None:
            what = about["name"] or f"{about['kind']} {'x'.join(map(str, about['shape']))} {about['dtype']}"
            raise WitnessError(f"this run's step has no {what}, which the witness in {saved.folder} is made of")
        values[index] = saved.values[name]
    return values


def replay(search: "TorchSearch", saved: Saved) -> Replayed:
    values = matched(search, saved)
    graph, program = search.graph, search.program
    node = _operation(graph, saved)
    roots = [r for r in graph.roots if node is None or node.index in graph.ancestors(r)] or graph.roots
    found: list[Outcome | None] = []
    with torch.random.fork_rng(devices=[]):
        for given in ({}, values):
            torch.manual_seed(saved.seed)
            found.append(run_step(graph, program, roots[-1], given))
        before, after = found
        if after is None:
            raise WitnessError(f"the step of this run can't be run on the witness in {saved.folder}")
        said = None
        if node is not None:
            torch.manual_seed(saved.seed)
            said = _said(search, node, replace(saved.hazard, node=node.index), saved.suspect["phase"], values)
    bad = [] if bool(torch.isfinite(after.loss).all()) else ["the loss"]
    bad += [f"the gradient of {name}" for name in after.gradients]
    if not bad and node is not None and node.phase == "backward" and said is not None and "non-finite" in said:
        bad = ["the gradient of a hand-written derivative"]
    return Replayed(
        _number(before.loss) if before is not None else "unknown",
        _number(after.loss),
        said,
        bad,
        search.changes(values),
    )


def _operation(graph: Graph, saved: Saved) -> Node | None:
    """Return the suspect's operation in this run: on the same line, or on the one with the same text."""
    suspect = saved.suspect
    index = saved.hazard.node % GRAPH_STRIDE
    for node in graph.nodes[index : index + 1] + graph.nodes:
        place = node.place
        if place is None or node.op.rstrip("_") != suspect["op"] or place.function != suspect["function"]:
            continue
        if place.code == suspect["code"] or place.line == suspect["line"]:
            return node
    return None


def _said(search: "TorchSearch", node: Node, hazard: Any, phase: str, values: Values) -> str:
    wanted = search.graph.ancestors(node.index)
    fails = search.fails(hazard, phase, wanted, values)
    place = node.place
    where = f"{place.function}, line {place.line}" if place is not None else ""
    what = "the derivative of " if phase == "backward" and node.phase == "forward" else ""
    return f"{what}{node.op.rstrip('_')} in {where} is {'non-finite' if fails else 'finite'}"


def _number(value: Any) -> str:
    return f"{float(value):.6g}" if value.numel() == 1 else f"of shape {tuple(value.shape)}"
