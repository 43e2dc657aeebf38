"""A step that can be called again: Keras' `train_step`, a `tf.function`, an iteration of a loop with a tape."""

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute.values import PerReplica
from tensorflow.python.eager import context

from whynan.adapters.common.arrays import Part, batch_size, map_structure, parts_of, to_numpy
from whynan.adapters.common.body import Again, no_look, nothing
from whynan.adapters.common.loops import Pass, calls_of_those_with, is_innermost
from whynan.adapters.numpy.explain import index_of
from whynan.adapters.numpy.replay import Recorder, answering, instrumented
from whynan.launch.rewrite import LoopSite
from whynan.records import Stage
from whynan.snapshot import GlobalRandomState, target_names


class Closure(ABC):
    """One call. `stage` is what the call is for; `variables` are all that it may change."""

    stage: Stage = "train"
    replica: int | None = None

    @abstractmethod
    def call(self) -> Any:
        """Run the step, eagerly."""

    @abstractmethod
    def inputs(self) -> list[tuple[str, Any]]:
        """Return what the step was given, by name."""

    @abstractmethod
    def with_rows(self, rows: Sequence[int]) -> "Closure":
        """Return the same step with row rows[i] of the batch in place i."""

    @abstractmethod
    def mapped(self, change: Callable[[Any], Any]) -> "Closure":
        """Return the same step with each array of `inputs`, in order, replaced by what `change` makes of it."""

    @abstractmethod
    def variables(self) -> list[tuple[str, Any]]:
        """Return all that the step may change, by name."""

    @property
    def size(self) -> int | None:
        """The number of samples."""
        return batch_size(self.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return parts_of(self.inputs())


class FitClosure(Closure):
    """A step of Keras' `fit`, `train_on_batch` or `evaluate`."""

    def __init__(self, model: Any, method: str, data: Any) -> None:
        self.model = model
        self.method = method
        self.data = data
        self.stage = "train" if method == "train_step" else "validation"

    def call(self) -> Any:
        data = tf.nest.map_structure(_without_optionals, self.data)
        return getattr(self.model, self.method)(data)

    def inputs(self) -> list[tuple[str, Any]]:
        data = self.data if isinstance(self.data, (tuple, list)) else (self.data,)
        return list(zip(("x", "y", "sample_weight"), data))

    def with_rows(self, rows: Sequence[int]) -> "FitClosure":
        size = batch_size(self.parts)
        return FitClosure(self.model, self.method, map_structure(self.data, lambda v: rows_of(v, rows, size)))

    def mapped(self, change: Callable[[Any], Any]) -> "FitClosure":
        data = self.data if isinstance(self.data, (tuple, list)) else (self.data,)
        return FitClosure(self.model, self.method, map_structure(tuple(data), change))

    def with_data(self, data: Any) -> "FitClosure":
        return FitClosure(self.model, self.method, data)

    def variables(self) -> list[tuple[str, Any]]:
        found = [(v.path, v.value) for v in self.model.variables]
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            found += [(v.path, v.value) for v in optimizer.variables]
        return unique_variables(found)


class FunctionClosure(Closure):
    """A call of a `tf.function` of the user's."""

    def __init__(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: Callable[[], list[Any]]
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.known = known

    def call(self) -> Any:
        return self.function.python_function(*self.args, **self.kwargs)

    def inputs(self) -> list[tuple[str, Any]]:
        try:
            bound = inspect.signature(self.function.python_function).bind(*self.args, **self.kwargs)
            given = list(bound.arguments.items())
        except (TypeError, ValueError):
            given = [(f"argument {i}", value) for i, value in enumerate(self.args)] + list(self.kwargs.items())
        return [(name, value) for name, value in given if not isinstance(value, (tf.Module, tf.Variable))]

    def with_rows(self, rows: Sequence[int]) -> "FunctionClosure":
        size = batch_size(self.parts)
        args, kwargs = map_structure((self.args, self.kwargs), lambda v: rows_of(v, rows, size))
        return self._with(args, kwargs)

    def mapped(self, change: Callable[[Any], Any]) -> "FunctionClosure":
        kept = lambda v: v if isinstance(v, (tf.Module, tf.Variable)) else change(v)  # noqa: E731
        args, kwargs = map_structure((self.args, self.kwargs), kept)
        return self._with(args, kwargs)

    def _with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "FunctionClosure":
        made = FunctionClosure(self.function, args, kwargs, self.known)
        made.stage, made.replica = self.stage, self.replica
        return made

    def on_replica(self, replica: int) -> "FunctionClosure":
        """Return the step of one of several replicas, with its part of the batch."""
        made = self._with(on_replica(self.args, replica), on_replica(self.kwargs, replica))
        made.replica = replica
        return made

    def variables(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        names = [*_argument_names(self.function, self.args, self.kwargs)]
        for name, value in names:
            found += list(_variables_in(name, value))
        found += [(variable_name(v), v) for v in self.known()]
        return unique_variables(found)


def _argument_names(function: Any, args: Any, kwargs: Any) -> Iterator[tuple[str, Any]]:
    try:
        yield from inspect.signature(function.python_function).bind(*args, **kwargs).arguments.items()
    except (TypeError, ValueError):
        yield from ((f"argument {i}", value) for i, value in enumerate(args))


def _variables_in(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tf.Variable):
        yield name, value
    elif hasattr(value, "path") and hasattr(value, "variables") and not isinstance(value, tf.Module):
        yield from ((v.path, v.value) for v in value.variables)  # an optimizer of Keras'
    elif hasattr(value, "variables") and hasattr(value, "layers"):
        yield from ((v.path, v.value) for v in value.variables)
    elif isinstance(value, tf.Module):
        for path, variable in value._flatten(predicate=lambda v: isinstance(v, tf.Variable), with_path=True):
            yield ".".join(str(part) for part in (name, *path)), variable
    elif hasattr(value, "variables") and not callable(value.variables):
        yield from ((getattr(v, "path", "variable"), getattr(v, "value", v)) for v in value.variables)


def variable_name(variable: Any) -> str:
    return str(getattr(variable, "path", None) or variable.name).removesuffix(":0")


def unique_variables(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    seen: dict[int, tuple[str, Any]] = {}
    for name, variable in found:
        if hasattr(variable, "handle"):
            seen.setdefault(int(variable.handle._id), (name, variable))
    return list(seen.values())


def rows_of(value: Any, rows: Sequence[int], size: int | None) -> Any:
    shape = getattr(value, "shape", None)
    if shape is None or isinstance(value, tf.Variable) or len(shape) == 0 or shape[0] != size:
        return value
    return tf.gather(value, list(rows)) if tf.is_tensor(value) else value[list(rows)]


def on_replica(structure: Any, replica: int) -> Any:
    """Return what one replica has of values that are spread over several."""
    return map_structure(structure, lambda v: v.values[replica] if isinstance(v, PerReplica) else v)


def _without_optionals(value: Any) -> Any:
    return None if isinstance(value, tf.experimental.Optional) else value


def n_bytes_of(variables: Sequence[tuple[str, Any]]) -> int:
    return sum(math.prod(v.shape) * int(v.dtype.size) for _, v in variables)


class SavedVariables:
    """Copies of variables, put back after each attempt."""

    def __init__(self, variables: Sequence[tuple[str, Any]]) -> None:
        self.copies = [(variable, variable.numpy()) for _, variable in variables if variable.dtype.is_numpy_compatible]

    def add(self, known: Sequence[tuple[Any, Any]]) -> None:
        """Add variables with the values that they had then."""
        have = {id(variable) for variable, _ in self.copies}
        self.copies += [(variable, value.numpy()) for variable, value in known if id(variable) not in have]

    def restore(self) -> None:
        for variable, copy in self.copies:
            variable.assign(copy)


TAPE = re.compile(r"GradientTape|\.gradient\(|apply_gradients|_step\(|\btape\b|loss")


class Draws(GlobalRandomState):
    """Random streams, those of TensorFlow's eager operations too where the program has set its seed."""

    def __init__(self, known: GlobalRandomState) -> None:
        self.python, self.numpy = known.python, known.numpy
        self.seed = context.global_seed()
        self.state = context.context()._rng.getstate() if self.seed is not None else None

    def restore(self) -> None:
        super().restore()
        present = context.context()
        if self.state is not None and context.global_seed() == self.seed and present._rng.getstate() != self.state:
            # The kernels that have drawn go with their caches; those made anew begin where they began.
            number = present._rng
            tf.random.set_seed(self.seed)
            present._rng = number
            number.setstate(self.state)


class LoopClosure(Closure):
    """One iteration of the user's loop. `change` is made to the names that its header has bound."""

    def __init__(self, current: Pass, known: list[Any], change: Callable[[Any], Any] | None = None,
                 again: Again | None = None, picks: "Picks | None" = None) -> None:  # fmt: skip
        self.picks = picks
        self.sources: dict[str, str] = {}
        """The program's files by name, where others are to be run."""
        self.current = current
        self.again = again or _again(current, None)
        self.known = known
        self.change = change

    def with_picks(self, run: Callable[["LoopClosure"], Any]) -> "LoopClosure":
        """Return the same step with what its body cuts out of arrays as its batch, where the header binds none."""
        if self.parts:
            return self
        made = LoopClosure(self.current, self.known, None, self.again, Picks(self.current))
        made.stage = self.stage
        run(made)
        return made if made.parts else self

    def call(self) -> Any:
        if self.picks is not None and (self.change is not None or not self.picks.items):
            return self.picks.run(self.change)
        targets = self._targets()

        def changed(values: dict[str, Any]) -> None:
            for name in targets if self.change is not None else ():
                values[name] = map_structure(values[name], self.change)

        return self.again.run(nothing, no_look, changed, self.sources)

    def inputs(self) -> list[tuple[str, Any]]:
        if self.picks is not None:
            return list(self.picks.items.values())
        return [(name, self.again.before.values[name]) for name in self._targets()]

    def with_rows(self, rows: Sequence[int]) -> "LoopClosure":
        size = batch_size(self.parts)
        return self.mapped(lambda value: rows_of(value, rows, size))

    def mapped(self, change: Callable[[Any], Any] | None) -> "LoopClosure":
        made = LoopClosure(self.current, self.known, change, self.again, self.picks)
        made.stage = self.stage
        return made

    def variables(self) -> list[tuple[str, Any]]:
        return unique_variables([(variable_name(v), v) for v in self.known])

    def _targets(self) -> list[str]:
        return [name for name in target_names(self.current.owner.site) if name in self.again.before.values]


class TensorRecorder(Recorder):
    """Notes what is cut out of tensors too."""

    arrays = (*Recorder.arrays, tf.Tensor)


def _again(current: Pass, instrument: Any) -> Again:
    again = Again(current.owner.site, current.frame, current.before, instrument)
    again.after.random = Draws(again.after.random)
    return again


class Picks:
    """Rows that a body cuts out of arrays and tensors, `x[start : start + 32]` or `tf.gather(x, rows)`: found by
    running it with its operations handed to a recorder, by the array's id."""

    def __init__(self, current: Pass) -> None:
        self.again = _again(current, instrumented)
        self.items: dict[int, tuple[str, Any]] = {}
        self.indices: dict[int, Any] = {}

    def run(self, change: Callable[[Any], Any] | None) -> Any:
        """Run the body; without a change note what is cut out."""
        recorder = TensorRecorder(self.again.function, is_tracing=False)
        if change is not None:

            def changed(owner: Any, index: Any, result: Any) -> Any:
                if id(owner) not in self.items:
                    return result
                new = change(result)
                return new if tf.is_tensor(result) else to_numpy(new)

            recorder.on_rows = changed
        try:
            return self.again.run(answering(recorder), no_look)
        finally:
            if change is None:
                self._note(recorder)

    def _note(self, recorder: Recorder) -> None:
        before = self.again.before
        spaces = [v if isinstance(v, dict) else getattr(v, "__dict__", {}) for v in before.reached.owners.values()]
        names = {id(value): str(name) for space in (self.again.frame.f_globals, *spaces, before.values)
                 for name, value in space.items()}  # fmt: skip
        names |= {id(array): name for name, array in before.reached.arrays.values()}
        indices = {id(index) for _, _, index, _ in recorder.gathers}
        for _, owner, index, result in recorder.gathers:
            if id(result) not in indices and id(owner) in names:
                self.items[id(owner)] = names[id(owner)], result
                self.indices[id(owner)] = owner, index

    def index_of(self, row: int) -> int | None:
        """Return the index in the data of a row of the batch; None where the picks do not agree on it."""
        found = {index_of(owner, index, row) for owner, index in self.indices.values()}
        return found.pop() if len(found) == 1 else None


def has_tape(site: LoopSite) -> bool:
    """Whether a loop's own text speaks of a tape or a loss, or calls one of the file's functions that holds a tape;
    of nested ones the innermost that does is meant."""
    called = calls_of_those_with("GradientTape", site.filename)
    return is_innermost(site, lambda text: TAPE.search(text) or called.search(text))
