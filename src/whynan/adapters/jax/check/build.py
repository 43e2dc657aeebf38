"""From a step's jaxpr to the framework-free graph, by evaluating it equation by equation."""

import linecache
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import to_numpy
from whynan.adapters.common.patches import quiet
from whynan.adapters.jax.replay import Call, _with
from whynan.adapters.jax.trace import Interpreter, Value
from whynan.check.graph import Graph, Measured, Place
from whynan.trace import Frame

_NAMES = {
    "max": "maximum",
    "min": "minimum",
    "reduce_max": "amax",
    "reduce_min": "amin",
    "reduce_sum": "sum",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "not": "bitwise_not",
    "concatenate": "cat",
    "reduce_prod": "prod",
    "scatter-add": "scatter_add",
    "cumlogsumexp": "logcumsumexp",
    "is_finite": "isfinite",
    "top_k": "topk",
    "reshape": "view",
    "transpose": "permute",
    "dynamic_update_slice": "dynamic_update_slice",
    "copy_p": "clone",
    "real": "select",
    "scatter": "scatter",
    "add_any": "add",
    "reduce_precision": "clone",
    "stop_gradient": "detach",
    "split": "split",
    "square": "square",
}
_CONSTANT = frozenset(("iota",))
_RANDOM = frozenset(
    [
        "random_bits",
        "threefry2x32",
        "random_wrap",
        "random_unwrap",
        "random_seed",
        "random_fold_in",
        "random_split",
        "rng_uniform",
    ]
)
_LONGEST_SCAN = 16
_SMALL = 64
_DATA = ("batch", "target", "data")


@dataclass
class Seen:
    """One equation as it ran."""

    primitive: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arrays: list[Any]
    params: dict[str, Any]
    shapes: list[tuple[tuple[int, ...], str]] = field(default_factory=list)


class Recorder(Interpreter):
    """An interpreter that remembers every equation, and the constants among its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, Seen] = {}
        self.constants: dict[int, Any] = {}

    def constant(self, value: Any) -> Value:
        result = super().constant(value)
        self.constants[result[1]] = value
        return result

    def _evaluate(self, eqn: Any, given: list[Value], outer: tuple[Frame, ...], name: str | None) -> list[Value]:
        if eqn.primitive.name == "scan" and eqn.params["length"] <= _LONGEST_SCAN:
            from whynan.adapters.jax.trace import _stack

            return self._scan(eqn, given, _stack(eqn, outer, name))
        return super()._evaluate(eqn, given, outer, name)

    def _note(
        self,
        eqn: Any,
        primitive: str,
        given: list[Value],
        outputs: list[Any],
        arrays: list[Any],
        stack: tuple[Frame, ...],
    ) -> list[Value]:
        index = len(self.graph.nodes)
        found = super()._note(eqn, primitive, given, outputs, arrays, stack)
        self.seen[index] = Seen(
            primitive, tuple(n for _, n in given), tuple(n for _, n in found), arrays, dict(eqn.params)
        )
        return found

    def derived(self, name: str, given: list[Value], value: Any, stack: tuple[Frame, ...]) -> Value:
        index = len(self.graph.nodes)
        found = super().derived(name, given, value, stack)
        self.seen[index] = Seen(name, tuple(n for _, n in given), (found[1],), [to_numpy(value)], {})
        return found


@dataclass
class Built:
    """A graph, and for each place of the call's arguments the node that it became."""

    graph: Graph
    leaves: dict[int, int]
    recorder: "Recorder"
    closed: Any = None
    """The step's equations, to be evaluated on other values without tracing it again."""


def build(call: Call, leaves: Sequence[Any] | None = None, home: Place | None = None, closed: Any = None) -> Built:
    """Evaluate a step and return its forward pass and hand-written derivatives as a graph.

    Args:
        call: the step.
        leaves: other values for its arguments.
        home: the line that stands for what no line of the user's has computed: the call of a library's `fit`.
        closed: the step's equations, where it was traced before.
    """
    given = list(call.leaves if leaves is None else leaves)
    places, names = call.dynamic(), call.names()
    recorder = Recorder()
    data = {i for i in call.fresh() if call.carried or not call.is_state(i, names)}
    with quiet():
        if closed is None:
            closed = jax.make_jaxpr(lambda *arrays: _with(call, given, places, arrays))(*[given[i] for i in places])
        values = [(given[i], recorder.number()) for i in places]
        recorder.run(closed, values)
    recorder.tell_phases()
    graph = Graph()
    at: dict[int, int] = {}
    by_place: dict[int, int] = {}
    for place, (value, number) in zip(places, values):
        array = to_numpy(value)
        kind: Any = "data" if place in data else "parameter"
        if array is None or array.dtype.kind not in "fc":
            kind = "data" if array is not None and np.ndim(array) else "constant"
        node = graph.add("leaf", kind=kind, shape=np.shape(value), dtype=dtype_of(value), name=names[place])
        node.measured, minus = measure(array)
        node.attrs["has_minus_inf"] = minus
        at[number] = by_place[place] = node.index
    _add_operations(graph, recorder, at, (home,) if home is not None else ())
    graph.roots = sorted({at[number] for number in recorder.losses if number in at})
    return Built(graph, by_place, recorder, closed)


def _add_operations(graph: Graph, recorder: Recorder, at: dict[int, int], outer: tuple[Place, ...]) -> None:
    def operand(number: int) -> int:
        if number not in at:
            value = recorder.constants.get(number)
            array = to_numpy(value)
            if array is not None and array.ndim == 0 and array.dtype.kind in "fiub":
                at[number] = graph.constant(array.item()).index
            else:
                kind: Any = (
                    "constant" if array is None or array.size <= _SMALL or number not in recorder.constants else "data"
                )
                node = graph.add(
                    "leaf", kind=kind, shape=np.shape(value) if value is not None else (), dtype=dtype_of(value)
                )
                node.measured, minus = measure(array)
                node.attrs["has_minus_inf"] = minus
                at[number] = node.index
        return at[number]

    for index, source in enumerate(recorder.graph.nodes):
        seen = recorder.seen.get(index)
        is_custom = source.custom is not None
        if seen is None or (source.phase != "forward" and not is_custom):
            continue
        op = _NAMES.get(seen.primitive, seen.primitive)
        inputs = [operand(number) for number in seen.inputs]
        attrs = attributes(seen)
        if op == "clamp":  # the operand stands between its bounds
            inputs = [inputs[1], inputs[0], inputs[2]]
            attrs.update(min_input=1, max_input=2)
        kind: Any = "constant" if op in _CONSTANT else "random" if op in _RANDOM else "op"
        places = tuple(
            Place(f.file, f.line, f.function, linecache.getline(f.file, f.line).strip()) for f in source.stack[:6]
        )
        for number, (output, array) in enumerate(zip(seen.outputs, seen.arrays)):
            about: Any = {
                "shape": np.shape(array) if array is not None else (),
                "dtype": dtype_of(array),
                "stack": places or outer,
                "phase": "backward" if is_custom else "forward",
                "custom": source.custom,
                "module": source.module,
                "differentiable": not is_custom,
            }
            if number == 0:
                node = graph.add(op, inputs=tuple(inputs), attrs=attrs, kind=kind, **about)
                first = node.index
            else:
                node = graph.add("item", inputs=(first,), attrs={"index": number}, **about)
            node.measured, minus = measure(array)
            if minus:
                node.attrs["has_minus_inf"] = True
            if not places:
                node.attrs["library"] = True
            layer = layer_of(seen.primitive, array, [_constant(graph, i) for i in inputs]) if number == 0 else None
            if layer is not None:
                node.attrs["layer"] = layer
            at[output] = node.index


def _constant(graph: Graph, index: int) -> float | None:
    node = graph.nodes[index]
    return float(node.attrs["value"]) if node.op == "constant" else None


def attributes(seen: Seen) -> dict[str, Any]:
    """Return an equation's parameters under the names that the ranges know."""
    found = {k: v for k, v in seen.params.items() if isinstance(v, (bool, int, float, str)) or is_numbers(v)}
    axes = seen.params.get("axes")
    if axes is not None:
        found["dim"] = [int(a) for a in axes]
    return found


def is_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, int) for item in value)


def measure(array: Any) -> tuple[Measured | None, bool]:
    """Return the range of an array's finite elements, and whether it holds -inf."""
    if array is None or array.size == 0 or array.dtype.kind not in "fiubV":
        return None, False
    x = np.asarray(array, dtype=np.float64)
    good = np.isfinite(x)
    n_bad = int(x.size - good.sum())
    minus = bool(n_bad and np.isneginf(x).any())
    if n_bad == x.size:
        return Measured(0.0, 0.0, 0.0, n_bad), minus
    x = x[good] if n_bad else x
    return Measured(float(x.min()), float(x.max()), float(np.abs(x).min()), n_bad), minus


def dtype_of(value: Any) -> str:
    return str(getattr(value, "dtype", "float32"))


_PRODUCTS = ("dot_general", "conv_general_dilated")


def layer_of(primitive: str, array: Any, inputs: Sequence[float | None]) -> tuple[str, float, float, float] | None:
    """Return kind, size, share of zeros and share at the ends of one operation's output; None for other operations."""
    kind = "Linear" if primitive in _PRODUCTS else {"tanh": "Tanh", "logistic": "Sigmoid"}.get(primitive)
    if primitive in ("max", "maximum") and 0.0 in inputs:
        kind = "ReLU"
    if kind is None or array is None or array.size < 2 or array.dtype.kind not in "fV":
        return None
    x = np.asarray(array, dtype=np.float64)
    with np.errstate(all="ignore"):
        rms = float(np.sqrt(np.mean(np.square(x))))
    if not math.isfinite(rms):
        return None
    low = -0.999 if kind == "Tanh" else 0.001
    ends = float(np.mean((x > 0.999) | (x < low))) if kind in ("Tanh", "Sigmoid") else 0.0
    return kind, rms, float(np.mean(x == 0)), ends
