"""Looks for a witness by calling the step again on other data and parameters.

The step is called compiled, as a whole; where something non-finite comes out it is run once more equation by equation,
and counts for a suspect only where its own operation failed. Parameters are moved the way training moves them, by at
most their own size.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whynan.adapters.common.arrays import to_numpy
from whynan.adapters.jax.check.build import Built, build
from whynan.adapters.jax.replay import Call, Runner
from whynan.check.context import Context
from whynan.check.graph import Measured
from whynan.check.hazards import Hazard
from whynan.check.witness import Replayed, Saved, Witness
from whynan.errors import WitnessError

_MOST_S = 8.0


class JaxSearch:
    """Searches over one step."""

    def __init__(self, context: Context, call: Call, built: Built, runner: Runner) -> None:
        self.context, self.call, self.built = context, call, built
        self.runner = runner
        self.names = call.names()
        self.place = next((n.place for n in context.graph.nodes if n.attrs.get("library")), None)

    def find(self, hazard: Hazard, phase: str, seconds: float) -> Witness:
        """Look for a witness of a hazard for `seconds` at most."""
        until = time.monotonic() + min(seconds, _MOST_S)
        tries = 0
        for how, leaves in self._candidates(hazard):
            tries += 1
            if self.runner.fails(leaves) and self._is_of(hazard, phase, leaves):
                return self._witness(how, tries, leaves)
            if tries == 1:
                until = max(until, time.monotonic() + 0.5 * min(seconds, _MOST_S))  # compiling took its own time
            if time.monotonic() > until:
                break
        return Witness("not found", f"{tries} tries", tries)

    def _witness(self, how: str, tries: int, leaves: Sequence[Any]) -> Witness:
        """Keep what was changed; where the batch failed as it was, the batch."""
        changed = [p for p, (old, new) in enumerate(zip(self.call.leaves, leaves)) if new is not old and np.size(new)]
        kept = changed or self._places("data")
        values, about = {}, {}
        for place in kept:
            array = np.asarray(leaves[place])
            if array.dtype.kind in "fiub":  # a bfloat16 of ml_dtypes has no place in the file
                values[str(place)] = np.ascontiguousarray(array)
                about[str(place)] = {"name": self.names[place], "shape": list(array.shape), "dtype": str(array.dtype)}
        return Witness("found", how, tries, self._changes(leaves), "a result of the step", values, about)

    def replay(self, saved: Saved) -> Replayed:
        """Run the step on a saved witness."""
        leaves = list(self.call.leaves)
        here = {name: place for place, name in enumerate(self.names)}
        for number, about in saved.leaves.items():
            place = here.get(about["name"])
            if place is None or list(np.shape(leaves[place])) != about["shape"]:
                raise WitnessError(
                    f"this run's step takes no {about['name']} of shape {tuple(about['shape'])}, which the witness in "
                    f"{saved.folder} is made of"
                )
            leaves[place] = saved.values[number]
        built = build(self.call, leaves, self.place, self.built.closed)
        nodes = built.graph.nodes
        loss = [next((_said(b.graph.nodes[i].measured) for i in b.graph.roots), "unknown") for b in (self.built, built)]
        bad = ["a result of the step"] if self.runner.fails(leaves) else []
        suspect, said = saved.suspect, None
        for node in nodes[saved.hazard.node : saved.hazard.node + 1] + nodes:
            place_ = node.place
            if place_ is not None and node.op == suspect["op"] and suspect["code"] == place_.code:
                is_bad = node.measured is not None and node.measured.n_nonfinite > 0
                said = f"the value of {node.op} on line {place_.line} is {'non-finite' if is_bad else 'finite'}"
                break
        return Replayed(loss[0], loss[1], said, bad, self._changes(leaves))

    def _is_of(self, hazard: Hazard, phase: str, leaves: Sequence[Any]) -> bool:
        """Whether the suspect's own operation failed, of operands that were finite."""
        graph = build(self.call, leaves, self.place, self.built.closed).graph
        if hazard.node >= len(graph.nodes) or graph.nodes[hazard.node].op != self.context.node(hazard.node).op:
            return False
        node = graph.nodes[hazard.node]
        operands = [graph.nodes[i] for i in node.inputs]
        if hazard.cause not in ("fully-masked-softmax", "inf-minus-inf") and any(
            o.measured is not None and o.measured.n_nonfinite for o in operands
        ):
            return False
        operand = operands[hazard.operand] if hazard.operand < len(operands) else None
        if phase == "backward" and node.phase == "forward":
            if node.measured is not None and node.measured.n_nonfinite:
                return True
            return operand is not None and operand.measured is not None and operand.measured.least <= 1e-38
        return node.measured is not None and node.measured.n_nonfinite > 0

    def _places(self, kind: str) -> list[int]:
        nodes = self.context.graph.nodes
        return [p for p, i in self.built.leaves.items() if nodes[i].kind == kind and nodes[i].measured is not None]

    def _candidates(self, hazard: Hazard) -> Iterator[tuple[str, list[Any]]]:
        yield "the batch as it was", list(self.call.leaves)
        data = [p for p in self._places("data") if np.ndim(self.call.leaves[p]) > 0]
        groups = [(data, "data"), *(([p], self.names[p]) for p in data if len(data) > 1)]
        for group, name in groups:
            for choice in ("zero", "low", "high"):
                leaves = list(self.call.leaves)
                for place in group:
                    x = self.context.values[self.built.leaves[place]]
                    number = {"zero": 0.0, "low": x.lo, "high": x.hi}[choice]
                    if x.lo <= number <= x.hi and np.isfinite(number):
                        leaves[place] = np.full_like(np.asarray(leaves[place]), number)
                yield f"{name} all {choice}", leaves
        leaves = list(self.call.leaves)
        for place in data:
            array = np.asarray(leaves[place])
            leaves[place] = np.repeat(array[:1], len(array), axis=0)
        yield "all samples of the batch the same", leaves
        yield from self._moved()

    def _moved(self) -> Iterator[tuple[str, list[Any]]]:
        """Parameters moved along the step's own update, by up to their own size; then at random within it."""
        used = self.context.graph.relevant()
        parameters = [p for p in self._places("parameter") if self.built.leaves[p] in used]
        outputs = [to_numpy(o) for o in self.runner.outputs(self.call.leaves)]
        directions: dict[int, Any] = {}
        taken: set[int] = set()
        for place in parameters:
            old = np.asarray(self.call.leaves[place])
            same = [k for k, o in enumerate(outputs) if o is not None and o.shape == old.shape and k not in taken]
            if same and old.dtype.kind in "fV":
                best = min(same, key=lambda k: float(np.abs(np.float64(outputs[k]) - np.float64(old)).sum()))
                best = self.call.carried[place] if self.call.carried.get(place) in same else best
                taken.add(best)
                new = np.float64(outputs[best])
                directions[place] = np.sign(new if self.call.function_returns_gradients else new - np.float64(old))
        signs = (-1.0, 1.0) if self.call.function_returns_gradients else (1.0, -1.0)
        for sign in signs:
            for share in (0.25, 0.5, 1.0):
                yield (
                    f"parameters moved {'along' if sign == signs[0] else 'against'} the update by {share:g} of "
                    "their size",
                    self._shifted({p: sign * share * d for p, d in directions.items()}),
                )
        generator = np.random.default_rng(0)
        for _ in range(12):
            yield (
                "parameters moved at random within their own size",
                self._shifted({p: np.sign(generator.normal(size=d.shape)) for p, d in directions.items()}),
            )

    def _shifted(self, moves: dict[int, Any]) -> list[Any]:
        leaves = list(self.call.leaves)
        for place, move in moves.items():
            old = np.asarray(leaves[place])
            size = max(float(np.abs(np.float64(old)).max(initial=0.0)), 0.5)
            leaves[place] = (np.float64(old) + size * move).astype(old.dtype)
        return leaves

    def _changes(self, leaves: Sequence[Any]) -> tuple[str, ...]:
        found = []
        for place, (old, new) in enumerate(zip(self.call.leaves, leaves)):
            if new is not old and np.size(new):
                array = np.float64(np.asarray(new))
                found.append(f"{self.names[place]}: now in [{array.min():.4g}, {array.max():.4g}]")
        return tuple(found[:6])


def _said(measured: Measured | None) -> str:
    if measured is None:
        return "unknown"
    return "non-finite" if measured.n_nonfinite else f"{measured.hi:.6g}"
