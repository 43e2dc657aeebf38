"""Runs a step again: once equation by equation, as often as is asked as a whole."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import all_finite, kind_of, to_numpy
from whynan.adapters.common.patches import quiet
from whynan.adapters.jax.closure import Call, data_name
from whynan.adapters.jax.trace import Interpreter
from whynan.records.recording import What

_LAST_KEY = re.compile(r"\w+(?=['\"\]]*$)")


@dataclass
class Traced:
    """One traced run: its graph, the numbers of the loss and of the symptom's values."""

    interpreter: Interpreter
    what: What | None = None
    name: str = ""
    kind: str = ""
    starts: list[int] = field(default_factory=list)
    loss: int | None = None
    error: BaseException | None = None
    harmless: set[int] = field(default_factory=set)
    """Places of results that are not finite, and neither loss nor gradient nor anything that the next step is given."""

    @property
    def is_finite(self) -> bool:
        return self.what is None


def trace_call(call: Call, layers: Sequence[Any] = (), leaves: Sequence[Any] | None = None) -> Traced:
    """Evaluate the step equation by equation, and find what in it is not finite."""
    given = list(call.leaves if leaves is None else leaves)
    places = call.dynamic()
    names, parts = call.names(), call.parts()
    interpreter = Interpreter(layers)
    traced = Traced(interpreter)
    with quiet():
        closed, shapes = jax.make_jaxpr(lambda *arrays: _with(call, given, places, arrays), return_shape=True)(
            *[given[i] for i in places]
        )
        values = []
        targets = {part.name for part in parts if part.role == "target"}
        batch = {i for i in call.fresh() if not call.is_state(i, names)}
        for i in places:
            number = interpreter.number()
            array = to_numpy(given[i])
            if array is not None:
                name = data_name(names[i], call.function)
                role = "target" if name in targets else "batch" if i in batch and np.ndim(array) else "parameter"
                interpreter.graph.give(number, role, name, array)  # type: ignore[arg-type]
            values.append((given[i], number))
        outputs = interpreter.run(closed, values)
    interpreter.tell_phases()
    _find_symptom(traced, call, outputs, shapes, names)
    return traced


def _with(call: Call, given: list[Any], places: list[int], arrays: Any) -> Any:
    leaves = list(given)
    for place, array in zip(places, arrays):
        leaves[place] = array
    return call.again(leaves)


def _find_symptom(traced: Traced, call: Call, outputs: list[Any], shapes: Any, names: list[str]) -> None:
    """Name what is not finite: the loss first, then gradients and parameters among the results."""
    graph = traced.interpreter.graph
    losses = traced.interpreter.losses
    call.gradients = {place for place, (_, number) in enumerate(outputs) if number in graph.gradients}
    traced.loss = losses[-1] if losses else None
    bad_losses = [n for n in losses if n in graph.bad]
    if bad_losses:
        traced.loss = bad_losses[0]
        traced.what, traced.name, traced.starts = "loss", "loss", bad_losses[:1]
        traced.kind = kind_of(graph.bad[bad_losses[0]]) or "nan"
        return
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    finite_inputs = [to_numpy(call.leaves[i]) for i in call.dynamic()]
    for place, (value, number) in enumerate(outputs):
        array = to_numpy(value)
        if array is None or all_finite(array):
            continue
        kind = kind_of(array) or "nan"
        if losses and _is_by_the_way(call, place, array, paths, names):
            traced.harmless.add(place)
            continue
        if array.size == 1 and not losses:
            what: What = "loss"
        elif (array.size == 1 and kind != "nan") or (kind != "nan" and _had_infinity(array, finite_inputs)):
            continue
        else:
            what = "gradient" if call.function_returns_gradients else "parameter"
        if traced.what is None:
            traced.what, traced.name, traced.kind = what, paths[place] if place < len(paths) else "result", kind
        traced.starts.append(number)


def _is_by_the_way(call: Call, place: int, array: Any, paths: list[str], names: list[str]) -> bool:
    """Whether a result is a metric or the like: the loss is finite, and nothing carries this to the next step."""
    if not call.is_training or call.function_returns_gradients or getattr(call.function, "is_derivative", False):
        return False
    if call.carried and array.size == 1:
        return place not in call.carried.values()
    if call.carried:
        # A new value of something that the program has taken apart in between is not known as carried.
        others = [np.shape(call.leaves[i]) for i in call.dynamic() if i not in call.carried]
        return place not in call.carried.values() and array.shape not in others
    # Nothing is known to be carried yet: a number is state if an argument has its name, an array if there is an
    # argument of its shape whose name no other result has.
    key = _key(paths[place] if place < len(paths) else "")
    alike = [_key(names[i]) for i in call.dynamic() if np.shape(call.leaves[i]) == array.shape]
    if array.size > 1 and key is not None and not key.isdigit() and key not in alike:
        results = {_key(path) for path, leaf in zip(paths, call.outputs) if np.shape(leaf) == array.shape}
        return results.issuperset(alike)
    return not any(key is None or key.isdigit() or name == key for name in alike)


def _key(path: str) -> str | None:
    """Return the last part of a path: "w" of `params['w']`."""
    found = _LAST_KEY.search(path)
    return found.group() if found is not None else None


def _had_infinity(array: Any, inputs: list[Any]) -> bool:
    """Whether infinities of that shape came into the step already."""
    return any(given is not None and given.shape == array.shape and not all_finite(given) for given in inputs)


class Runner:
    """Runs a call as a whole, compiled where it was: for samples and experiments."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.places = call.dynamic()
        self._compiled: Any = None

    def use(self, closed: Any) -> None:
        """Run these equations of the step, without tracing it again."""
        from jax.extend.core import jaxpr_as_fun

        self._compiled = jax.jit(jaxpr_as_fun(closed))

    def outputs(self, leaves: Sequence[Any]) -> list[Any]:
        if self._compiled is None:
            given, places = list(self.call.leaves), self.places
            self._compiled = jax.jit(lambda *arrays: jax.tree_util.tree_leaves(_with(self.call, given, places, arrays)))
        with quiet():
            return list(self._compiled(*[leaves[i] for i in self.places]))

    def fails(self, leaves: Sequence[Any]) -> bool:
        """Whether a NaN comes out, or an infinity where none was."""
        return not all(_passes(value) for value in self.call.of_interest(self.outputs(leaves)))


def _passes(value: Any) -> bool:
    array = to_numpy(value)
    return array is None or all_finite(array)
