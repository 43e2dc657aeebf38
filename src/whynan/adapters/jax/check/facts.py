"""What the review asks of a JAX step: its layers, the epsilon of its update, one step of several lengths."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.jax.check.build import Built, build
from whynan.adapters.jax.closure import Call
from whynan.adapters.jax.replay import Runner
from whynan.check.dtypes import SMALLEST
from whynan.check.graph import Graph, Place
from whynan.check.review.facts import LayerFacts, OptimizerFacts

if TYPE_CHECKING:
    from whynan.adapters.jax.check.build import Recorder

_FACTORS = (1.0, 0.1, 0.01)
_MOST_NODES = 1500


def layers(graph: Graph) -> tuple[LayerFacts, ...]:
    """Return the size of what each product gives, the zeros of each relu, the ends of each tanh and sigmoid."""
    found = []
    for node in graph.nodes:
        about = node.attrs.get("layer")
        if about is None or node.phase != "forward":
            continue
        where = node.module or (f"{node.place.function}, line {node.place.line}" if node.place else node.op)
        found.append(LayerFacts(f"{node.op} in {where}" if not node.module else where, *about))
    return tuple(found)


def update_facts(built: Built, call: Call, changes: dict[int, Any], place: Place | None) -> OptimizerFacts:
    """Return what the step's own equations tell of the update: m / (sqrt(v) + eps), and how far it moves."""
    eps, dtypes = _epsilon(built.recorder)
    weights = math.sqrt(sum(float(np.square(np.float64(np.asarray(call.leaves[p]))).sum()) for p in changes))
    moved = math.sqrt(sum(float(np.square(c).sum()) for c in changes.values()))
    return OptimizerFacts(
        kind="the update",
        place=place,
        rates=(),
        eps=eps,
        decays=(),
        momentum=0.0,
        dtypes=dtypes,
        weight_norm=weights,
        gradient_norm=moved,
        n_parameters=0,
    )


def _epsilon(recorder: "Recorder") -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Find divisors sqrt(v) + eps outside of the forward pass, where v is no smaller than 0."""
    made = {output: seen for seen in recorder.seen.values() for output in seen.outputs}
    sources = recorder.graph.nodes
    found: set[tuple[float, str]] = set()
    for index, seen in recorder.seen.items():
        if seen.primitive != "div" or sources[index].phase == "forward" or len(seen.inputs) < 2:
            continue
        divisor = _past(made, seen.inputs[1])
        if divisor is None:
            continue
        if divisor.primitive == "sqrt":
            found.add((0.0, str(divisor.arrays[0].dtype)))
        elif divisor.primitive == "add":
            root = next(
                (m for i in divisor.inputs if (m := _past(made, i)) is not None and m.primitive == "sqrt"), None
            )
            number = next((v for i in divisor.inputs if (v := _number(recorder, made, i)) is not None), None)
            if root is not None and number is not None and divisor.arrays[0] is not None:
                found.add((number, str(divisor.arrays[0].dtype)))
    # A type's smallest number and what the program gave: what was rounded to 0 is told by the type.
    bad = {(value, dtype) for value, dtype in found if value < SMALLEST.get(dtype, 0.0) or value == 0}
    return tuple(sorted({v for v, _ in bad})), tuple(sorted({d for _, d in bad}))


def _past(made: dict[int, Any], number: int) -> Any:
    """Return what made a value, past changes of shape and type."""
    seen = made.get(number)
    while seen is not None and seen.primitive in ("broadcast_in_dim", "convert_element_type", "reshape", "copy"):
        seen = made.get(seen.inputs[0])
    return seen


def _number(recorder: "Recorder", made: dict[int, Any], number: int) -> float | None:
    seen = made.get(number)
    while seen is not None and seen.primitive in ("broadcast_in_dim", "convert_element_type", "reshape", "copy"):
        number = seen.inputs[0]
        seen = made.get(number)
    value = to_numpy(recorder.constants.get(number)) if number in recorder.constants else None
    return float(value) if value is not None and value.ndim == 0 and value.dtype.kind in "fiuV" else None


def moves(runner: Runner, call: Call, places: Sequence[int]) -> dict[int, Any]:
    """Return by how much one step moves each parameter; nothing where the function gives gradients."""
    if call.function_returns_gradients:
        return {}
    outputs = [to_numpy(o) for o in runner.outputs(call.leaves)]
    taken: set[int] = set()
    found = {}
    for place in places:
        old = to_numpy(call.leaves[place])
        if old is None or old.dtype.kind not in "fV" or old.ndim == 0:
            continue
        same = [k for k, o in enumerate(outputs) if o is not None and o.shape == old.shape and k not in taken]
        if call.carried.get(place) in same:
            same = [call.carried[place]]
        if not same:
            continue
        best = min(same, key=lambda k: float(np.abs(np.float64(outputs[k]) - np.float64(old)).sum()))
        taken.add(best)
        found[place] = np.float64(outputs[best]) - np.float64(old)
    return found


def rate_test(call: Call, built: Built, changes: dict[int, Any]) -> tuple[tuple[float, float], ...]:
    """Return (share of the step, loss) for a hundredth, a tenth and the whole of the step's own update."""
    root = built.graph.roots[-1] if built.graph.roots else None
    start = built.graph.nodes[root].measured if root is not None else None
    if root is None or start is None or start.n_nonfinite or len(built.graph.nodes) > _MOST_NODES:
        return ()
    if not changes or not all(all_finite(c) for c in changes.values()):
        return ()
    found = [(0.0, start.hi)]
    for factor in _FACTORS:
        leaves = list(call.leaves)
        for place, change in changes.items():
            old = np.asarray(leaves[place])
            leaves[place] = (np.float64(old) + factor * change).astype(old.dtype)
        graph = build(call, leaves, closed=built.closed).graph
        measured = graph.nodes[graph.roots[-1]].measured if graph.roots else None
        if measured is None:
            return ()
        found.append((factor, math.inf if measured.n_nonfinite else measured.hi))
        if factor == 1.0 and found[-1][1] <= 2 * abs(start.hi):
            break  # the whole step is fine: shorter ones need no trial
    return tuple(sorted(found))
