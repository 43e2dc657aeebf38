"""One call of a step: a pure function and its arguments, which are all that is needed to run it again."""

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.batch import Part, batch_size, parts_of
from whynan.adapters.common.loops import Pass
from whynan.records.recording import Stage

_ARRAYS = (jax.Array, np.ndarray, np.generic, float)


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
