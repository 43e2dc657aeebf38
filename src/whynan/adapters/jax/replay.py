"""One call of a step, a pure function and its arguments, and how it is run again: equation by equation or whole."""

import inspect
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import Part, all_finite, batch_size, kind_of, parts_of, to_numpy
from whynan.adapters.common.loops import Pass
from whynan.adapters.common.patches import quiet
from whynan.adapters.jax.trace import Interpreter
from whynan.records import Stage, What

_ARRAYS = (jax.Array, np.ndarray, np.generic, float)
_LAST_KEY = re.compile(r"\w+(?=['\"\]]*$)")


class Call:
    """A function of the user's, its arguments flattened, and what it returned.

    `carried` are places of arguments that an earlier call's result was: parameters, optimizer state.
    """

    def __init__(self, function: Any, args: Any, kwargs: Any, stage: Stage) -> None:
        self.function = function
        self.stage = stage
        self.leaves, self.tree = jax.tree_util.tree_flatten((args, kwargs))
        self.outputs: list[Any] = []
        self.out_tree: Any = None
        self.carried: dict[int, int] = {}
        self.is_checked = False
        self.line: tuple[str, int] | None = None
        """Where the program made the call: file and line."""
        self.within: weakref.ref[Pass] | None = None
        """The iteration of a loop that updates by hand; the loop itself must be the only one to hold it."""
        self.is_training = False
        self.is_update = False
        """Whether it makes new parameters of gradients that another call gave: part of that call's step."""
        self.step = 0
        self.epoch: int | None = None
        self.validation_batch = 0
        self.function_returns_gradients = False
        self.n_devices: int | None = None
        """Of a mapped function (`pmap`): the length of its arguments' first axis, which is not that of the batch."""

        self.gradients: set[int] = set()
        """Places of results that are gradients, known once the call has been traced."""
        self.ignored: set[int] = set()
        """Places of results that are no symptom where they are not finite: a metric that never reaches the loss."""

    def of_interest(self, outputs: Sequence[Any] | None = None) -> list[Any]:
        """Return the results that have to be finite."""
        return [leaf for i, leaf in enumerate(self.outputs if outputs is None else outputs) if i not in self.ignored]

    def set_result(self, result: Any) -> None:
        self.outputs, self.out_tree = jax.tree_util.tree_flatten(result)

    def again(self, leaves: Sequence[Any] | None = None) -> Any:
        """Call the plain function (nothing compiled) with these leaves."""
        args, kwargs = jax.tree_util.tree_unflatten(self.tree, self.leaves if leaves is None else leaves)
        return self.function(*args, **kwargs)

    def dynamic(self) -> list[int]:
        """Return the places of leaves that are numbers a trace may follow."""
        return [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, _ARRAYS) and not isinstance(leaf, bool)]

    def names(self) -> list[str]:
        """Return each leaf's name: the parameter of the function and the path in it."""
        parameters = _parameters(self.function)
        named = []
        for path, _ in jax.tree_util.tree_flatten_with_path(jax.tree_util.tree_unflatten(self.tree, self.leaves))[0]:
            kind, rest = path[0], path[1:]
            first = rest[0] if rest else None
            head = "argument"
            if first is not None and getattr(kind, "idx", 0) == 0:
                place = first.idx
                head = parameters[place] if place < len(parameters) else f"argument {place}"
            elif first is not None:
                head = str(first.key)
            named.append(head + "".join(_step(part) for part in rest[1:]))
        return named

    def data_names(self) -> list[str]:
        """Return each leaf's name as its part of the batch has it."""
        return [data_name(name, self.function) for name in self.names()]

    def without_values(self) -> "Call":
        """Return the call without its arrays: which function, which arguments came from the call before."""
        bare = Call.__new__(Call)
        bare.__dict__.update(self.__dict__)
        bare.leaves, bare.outputs = [], []
        return bare

    def batch_places(self) -> list[int]:
        """Return the places of arrays that are data: not carried from step to step, and no random key."""
        size = self.size_of_batch()
        rows = {i: self._rows(self.leaves[i]) for i in self.fresh()}
        return [i for i, array in rows.items() if size is not None and np.ndim(array) and len(array) == size]

    def _rows(self, leaf: Any) -> Any:
        """Return an array with the rows of its devices one after the other."""
        shape = np.shape(leaf)
        if self.n_devices is None or len(shape) < 2 or shape[0] != self.n_devices:
            return leaf
        return np.asarray(leaf).reshape(-1, *shape[2:])

    def fresh(self) -> list[int]:
        dynamic = self.dynamic() if not self.is_update else []
        return [
            i for i in dynamic
            if i not in self.carried and np.ndim(self.leaves[i]) >= 1 and not _is_key(self.leaves[i])
        ]  # fmt: skip

    def parts(self) -> tuple[Part, ...]:
        names = self.names()
        data = [i for i in self.fresh() if not self.is_state(i, names)]
        return parts_of([(data_name(names[i], self.function), self._rows(self.leaves[i])) for i in data])

    def is_state(self, place: int, names: list[str]) -> bool:
        """Before a second call nothing is known to be carried: then the first argument's arrays are parameters."""
        if self.carried:
            return False
        head = names[place].split("[")[0].split(".")[0]
        if self.stage == "validation":
            return head in _STATE_NAMES
        return head in _STATE_NAMES or head == names[0].split("[")[0].split(".")[0]

    def size_of_batch(self) -> int | None:
        return batch_size(self.parts())

    def with_rows(self, rows: Sequence[int]) -> list[Any]:
        """Return the leaves with row rows[i] of the batch in place i."""
        leaves = list(self.leaves)
        for i in self.batch_places():
            leaves[i] = np.asarray(self._rows(leaves[i]))[list(rows)].reshape(np.shape(leaves[i]))
        return leaves


_STATE_NAMES = frozenset("params state opt_state model optimizer carry variables theta weights key rng".split())  # noqa: SIM905


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def data_name(name: str, function: Any) -> str:
    """Keras' steps take `data`: a tuple of x, y and sample weights."""
    for place, known in (("data[0]", "x"), ("data[1]", "y"), ("data[2]", "sample_weight")):
        if name.startswith(place):
            return known
    return name


def _step(part: Any) -> str:
    for attribute, form in (("key", "[{!r}]"), ("name", ".{}"), ("idx", "[{}]")):
        if hasattr(part, attribute):
            return form.format(getattr(part, attribute))
    return f"[{part}]"


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    return bool(dtype == np.uint32 and np.shape(leaf) == (2,))


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
