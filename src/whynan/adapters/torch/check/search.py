"""Looks for a witness near to what was seen.

That all samples of a batch are empty at once is a matter of how empty single ones are. Each sample of the recorded
batch is tried by itself, as a batch of its copies; where one of them fails, or comes near, so will a batch. Where each
holds plenty the witness is remote.

First what people run into: all zeros, all the same, nothing picked, two inputs alike. Then by gradient: the operand
that must reach its bound is pushed there, data kept within what was seen, each parameter within its own size of where
it was.
A witness counts where the whole step, loss or gradients, comes out non-finite on it.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from whynan.adapters.torch.check.program import Program, Ref, _filled, describe, run_step
from whynan.check.context import Context
from whynan.check.graph import Graph
from whynan.check.hazards import Hazard
from whynan.check.witness import Witness

_FEWEST = 4
"""Samples in a batch from which on a batch of nothing but empty ones is another matter than one empty sample."""
_PLENTY = 16
_MOST = 32
Values = dict[int, Any]


def is_of_a_whole_batch(hazard: Hazard, graph: Graph) -> bool:
    """Whether a hazard asks of all elements of a batch together that there be none."""
    if hazard.cause == "empty-reduction":
        return True
    node = graph.nodes[hazard.node]
    if hazard.cause != "division-by-zero" or hazard.operand >= len(node.inputs):
        return False
    divisor = graph.nodes[node.inputs[hazard.operand]]
    return is_count(graph, divisor.index)


def is_count(graph: Graph, index: int) -> bool:
    for _ in range(4):
        node = graph.nodes[index]
        if node.dtype.startswith(("int", "uint")) and node.op in ("sum", "count_nonzero"):
            return True
        if not node.inputs:
            return False
        index = node.inputs[0]
    return False


def batch_size(values: Values) -> int:
    """Return the number of samples of values that all have as many; 0 where they differ."""
    sizes = {v.shape[0] for v in values.values() if v.dim() > 0}
    return sizes.pop() if len(sizes) == 1 else 0


def is_remote(search: Any, hazard: Hazard, phase: str, wanted: set[int], values: Values) -> bool:
    """Whether a witness that changes data alone needs a whole batch unlike every sample that was seen."""
    graph, leaves = search.graph, search.program.leaves
    if not values or any(graph.nodes[i].kind == "parameter" for i in values) or not is_of_a_whole_batch(hazard, graph):
        return False
    n = batch_size(values)
    if n < _FEWEST:
        return False
    one = {i: torch.cat([v[:1], leaves[i][1:]]) for i, v in values.items() if v.shape == leaves[i].shape}
    if len(one) < len(values) or search.fails(hazard, phase, wanted, one):
        return False
    needed = graph.ancestors(graph.nodes[hazard.node].inputs[hazard.operand])
    for k in range(min(n, _MOST)):
        copies = {i: leaves[i][k : k + 1].expand_as(leaves[i]).clone() for i in values}
        left = _left(search, hazard, needed, copies)
        if left is None or left / n < _PLENTY:
            return False
    return True


def _left(search: Any, hazard: Hazard, needed: set[int], values: Values) -> float | None:
    node = search.graph.nodes[hazard.node]
    operand = node.inputs[hazard.operand]
    try:
        with torch.no_grad():
            x = search.program.run(needed, values, search.graph)[operand]
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError):
        return None
    if hazard.goal == "constant":
        return float((x != hazard.bound).sum())
    return float(x.numel()) if hazard.goal == "empty" else float(x.abs().min()) if x.numel() else 0.0


_STEPS = 40
_MOST_S = 4.0
"""For one suspect."""
_LARGEST = 10_000_000
"""Numbers in a tensor that is kept."""


class TorchSearch:
    def __init__(self, context: Context, program: Program) -> None:
        self.context, self.graph, self.program = context, context.graph, program
        self.batch = self._batch()

    def _batch(self) -> Values:
        """Return what the loader handed over, by node: values that are changed as a whole and not sample by sample."""
        nodes = self.graph.nodes
        handed = {
            i for node in nodes if not node.attrs.get("fetched") for i in node.inputs if nodes[i].attrs.get("fetched")
        }
        if not handed:
            return {}
        wanted = set().union(*(self.graph.ancestors(i) for i in handed))
        try:
            env = self.program.run(wanted, {}, self.graph)
        except (RuntimeError, IndexError, ValueError, TypeError, KeyError):
            return {}
        found = {i: env[i] for i in sorted(handed) if i in env}
        self.program.leaves.update(found)
        return found

    def find(self, hazard: Hazard, phase: str, seconds: float) -> Witness:
        node = self.graph.nodes[hazard.node]
        if node.attrs.get("uninitialized"):
            return Witness(
                "found",
                "measured: nothing was written to that memory before the first step",
                effect="the parameter holds whatever was in memory",
            )
        if node.index not in self.program.calls:
            return Witness("not searched", "the operation can't be run by itself")
        until = time.monotonic() + min(seconds, _MOST_S)
        wanted = self.graph.ancestors(node.index)
        leaves = self._leaves(self._above(node.index) if node.index not in self.batch else wanted)
        tries, remote = 0, None
        with torch.random.fork_rng(devices=[]):
            for how, values in self._candidates(hazard, wanted, leaves, until):
                tries += 1
                torch.manual_seed(tries)
                if self.fails(hazard, phase, wanted, values):
                    torch.manual_seed(tries)
                    effect = self._effect(hazard, values)
                    if effect is not None:
                        found = self._witness(how, tries, effect, values)
                        if not is_remote(self, hazard, phase, wanted, values):
                            return found
                        remote = remote or replace(found, outcome="remote")
                if time.monotonic() > until:
                    break
        return remote or Witness("not found", f"{tries} tries" if tries else "no values to try", tries)

    # What may change -------------------------------------------------------------------------------------------------

    def _above(self, index: int) -> set[int]:
        seen: set[int] = set()
        todo = [index]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen.add(current)
                if current not in self.batch:
                    todo.extend(self.graph.nodes[current].inputs)
        return seen

    def _leaves(self, wanted: set[int]) -> list[int]:
        found = []
        for index in sorted(wanted):
            node = self.graph.nodes[index]
            if index in self.batch or (node.kind in ("data", "parameter", "gradient") and index in self.program.leaves):
                found.append(index)
        return found

    def _data(self, leaves: list[int]) -> list[int]:
        return [
            i for i in leaves if self.graph.nodes[i].kind != "parameter" and self.graph.nodes[i].measured is not None
        ]

    def _bounds(self, index: int) -> tuple[float, float]:
        value = self.context.values[index]
        return value.lo, value.hi

    def _candidates(
        self, hazard: Hazard, wanted: set[int], leaves: list[int], until: float
    ) -> Iterator[tuple[str, Values]]:
        yield "the batch as it was", {}
        data = self._data(leaves)
        for group, name in ((data, "data"), *(([i], self._name(i)) for i in data[:8] if len(data) > 1)):
            yield from self._constants(group, name, hazard)
        for a, b in _pairs(data[:10], self.program.leaves):
            yield f"{self._name(a)} and {self._name(b)} the same", {a: self.program.leaves[b].clone()}
        if data:
            yield "all samples of the batch the same", self._same_rows(data)
        yield from self._by_gradient(hazard, wanted, leaves, until, parameters=False)
        yield from self._by_gradient(hazard, wanted, leaves, until, parameters=True)

    def _constants(self, group: list[int], name: str, hazard: Hazard) -> Iterator[tuple[str, Values]]:
        """All of one value: 0, the bound that matters, the ends of the range."""
        for choice in ("zero", "bound", "low", "high"):
            values: Values = {}
            for index in group:
                leaf, (lo, hi) = self.program.leaves[index], self._bounds(index)
                number = {"zero": 0.0, "bound": hazard.bound, "low": lo, "high": hi}[choice]
                if number != number or abs(number) == float("inf") or not lo <= number <= hi:
                    continue
                if not leaf.is_floating_point() and number != int(number):
                    continue
                values[index] = torch.full_like(leaf, int(number) if not leaf.is_floating_point() else number)
            if values:
                yield f"{name} all {choice if choice != 'bound' else format(hazard.bound, 'g')}", values

    def _same_rows(self, data: list[int]) -> Values:
        values: Values = {}
        for index in data:
            leaf = self.program.leaves[index]
            if leaf.dim() > 0 and leaf.shape[0] > 1:
                values[index] = leaf[:1].expand_as(leaf).clone()
        return values

    # By gradient -----------------------------------------------------------------------------------------------------

    def _by_gradient(
        self, hazard: Hazard, wanted: set[int], leaves: list[int], until: float, parameters: bool
    ) -> Iterator[tuple[str, Values]]:
        free = [
            i
            for i in leaves
            if self.program.leaves[i].is_floating_point() and (parameters or self.graph.nodes[i].kind != "parameter")
        ]
        node = self.graph.nodes[hazard.node]
        if not free or hazard.operand >= len(node.inputs) or hazard.goal not in ("zero", "low", "high"):
            return
        operand = node.inputs[hazard.operand]
        about_output = hazard.cause == "half-precision-overflow" and node.op not in ("exp",)
        target = node.index if about_output else operand
        needed = self.graph.ancestors(target)
        start = {i: self.program.leaves[i].detach().clone() for i in free}
        ends = {i: self._ends(i, start[i]) for i in free}
        values = start
        for step in range(_STEPS):
            if time.monotonic() > until:
                return
            given = {i: v.clone().requires_grad_() for i, v in values.items()}
            try:
                env = self.program.run(
                    needed,
                    {i: v * 1 for i, v in given.items()},
                    self.graph,
                    grad=True,
                )
                x = env[target]
                if not x.is_floating_point() or not x.requires_grad or x.numel() == 0:
                    return
                goal = _objective(x.float(), hazard)
                gradients = torch.autograd.grad(goal, list(given.values()), allow_unused=True)
            except (RuntimeError, IndexError, ValueError, TypeError):
                return
            moved = {}
            share = 0.03 * 1.12**step
            for (index, value), gradient in zip(values.items(), gradients):
                if gradient is None:
                    moved[index] = value
                    continue
                gradient = torch.nan_to_num(gradient.to(value.dtype))
                low, high = ends[index]
                scale = share * (high - low).clamp(min=1e-6)
                peak = gradient.abs().max().clamp(min=1e-30)
                new = value + scale * torch.sign(gradient) * (gradient.abs() > 1e-4 * peak)
                moved[index] = torch.minimum(torch.maximum(new, low), high)
            values = moved
            if (step >= 3 and (step % 4 == 3 or step == _STEPS - 1)) or _is_near(x, hazard):
                yield (
                    ("by gradient, within the data's range" + (" and the parameters' own size" if parameters else "")),
                    values,
                )

    def _ends(self, index: int, value: Any) -> tuple[Any, Any]:
        node = self.graph.nodes[index]
        if node.kind == "parameter":
            distance = float(value.abs().max().clamp(min=0.5)) if value.numel() else 0.5
            return value - distance, value + distance
        lo, hi = self._bounds(index)
        return torch.full_like(value, lo), torch.full_like(value, hi)

    # Whether it fails ------------------------------------------------------------------------------------------------

    def fails(self, hazard: Hazard, phase: str, wanted: set[int], values: Values) -> bool:
        """Whether the operation's value, or its derivative, is non-finite although its operands are not NaN."""
        node = self.graph.nodes[hazard.node]
        call = self.program.calls[node.index]
        try:
            with torch.no_grad():
                env = self.program.run(wanted - {node.index}, values, self.graph)
                operands = [env[i] for i in node.inputs if i in env]
                if any(bool(torch.isnan(x).any()) for x in operands if x.is_floating_point()):
                    return False
                if not _allows_inf(hazard) and any(
                    bool(torch.isinf(x).any()) for x in operands if x.is_floating_point()
                ):
                    return False
            is_slope = phase == "backward" and node.phase == "forward"
            if not is_slope:
                with torch.no_grad():
                    out = _first(call.func(*_filled(call.args, _value(env)), **_filled(call.kwargs, _value(env))))
                return bool(out.is_floating_point() and not torch.isfinite(out).all())
            operand = node.inputs[hazard.operand]
            x = env[operand].detach().clone().requires_grad_()
            env = {**env, operand: x}
            # The same memory may stand in the call under another number.
            out = _first(call.func(*_filled(call.args, _value(env)), **_filled(call.kwargs, _value(env))))
            (slope,) = torch.autograd.grad(out.sum(), x, allow_unused=True)
            return slope is not None and not bool(torch.isfinite(slope).all())
        except (RuntimeError, IndexError, ValueError, TypeError, KeyError):
            return False

    def _effect(self, hazard: Hazard, values: Values) -> str | None:
        """Run the whole step: what becomes non-finite of it; None where nothing does."""
        node = self.graph.nodes[hazard.node]
        if node.phase == "backward":
            return "the gradient of a hand-written derivative"
        roots = [r for r in self.graph.roots if node.index in self.graph.ancestors(r)]
        if not roots:
            return "the value of the operation"
        outcome = run_step(self.graph, self.program, roots[-1], values)
        if outcome is None:
            return None
        if not bool(torch.isfinite(outcome.loss).all()):
            return "the loss"
        return f"the gradient of {outcome.gradients[0]}" if outcome.gradients else None

    # Words -----------------------------------------------------------------------------------------------------------

    def _name(self, index: int) -> str:
        node = self.graph.nodes[index]
        shape = "x".join(map(str, node.shape)) or "a number"
        return node.name or f"{'batch' if index in self.batch else node.kind} {shape} {node.dtype}"

    def changes(self, values: Values) -> tuple[str, ...]:
        found = []
        for index, value in list(values.items())[:6]:
            old = self.program.leaves[index]
            if value.shape == old.shape and not bool(torch.equal(value, old)):
                x = value.float()
                found.append(
                    f"{self._name(index)}: now in [{float(x.min()):.4g}, {float(x.max()):.4g}]"
                    if x.numel()
                    else self._name(index)
                )
        return tuple(found)

    def _witness(self, how: str, tries: int, effect: str, values: Values) -> Witness:
        """Keep the values; where the batch failed as it was, the batch."""
        described = describe(self)
        kept = values or {i: self.program.leaves[i] for i, about in described.items() if about["kind"] != "parameter"}
        leaves = {str(i): v.detach().clone().contiguous() for i, v in kept.items() if v.numel() < _LARGEST}
        about = {name: described[int(name)] for name in leaves if int(name) in described}
        return Witness("found", how, tries, self.changes(values), effect, leaves, about, seed=tries)


def _value(env: Values) -> Any:
    return lambda leaf: env[leaf.node] if isinstance(leaf, Ref) else leaf


def _first(out: Any) -> Any:
    return next(t for t in tree_leaves(out) if isinstance(t, torch.Tensor))


def _allows_inf(hazard: Hazard) -> bool:
    return hazard.cause in ("fully-masked-softmax", "inf-minus-inf")


def _objective(x: Any, hazard: Hazard) -> Any:
    """Return what is to grow so that the operand reaches where it fails: of its nearest element."""
    if hazard.goal == "zero":
        return -x.abs().min() - 1e-3 * x.abs().mean()
    if hazard.goal == "low":
        return -x.min() - 1e-3 * x.mean()
    if hazard.cause == "half-precision-overflow":
        return x.abs().max() + 1e-3 * x.abs().mean()
    return x.max() + 1e-3 * x.mean()


def _is_near(x: Any, hazard: Hazard) -> bool:
    if hazard.goal == "zero":
        return bool(x.detach().abs().min() < 1e-12)
    if hazard.goal == "low":
        return bool(x.detach().min() <= hazard.bound)
    return bool(x.detach().abs().max() >= hazard.bound) if hazard.bound else False


def _pairs(data: list[int], leaves: Values) -> Iterator[tuple[int, int]]:
    for place, a in enumerate(data):
        for b in data[place + 1 :]:
            if leaves[a].shape == leaves[b].shape and leaves[a].dtype == leaves[b].dtype and leaves[a].numel() > 1:
                yield a, b
