"""Runs a step again, eagerly: once with every operation seen, as often as is asked without; reads `tf.data` again."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import tensorflow as tf

from whynan.adapters.common.arrays import all_finite, kind_of, to_numpy
from whynan.adapters.common.batch import find_index, parts_of
from whynan.adapters.common.data.reread import Call, Reader
from whynan.adapters.common.patches import quiet
from whynan.adapters.tensorflow.closure import Closure, FunctionClosure, SavedVariables
from whynan.adapters.tensorflow.trace import Eagerly, Tracer, id_of
from whynan.adapters.tensorflow.validation import loss_in
from whynan.records.recording import What

_MAX_BYTES = 256 * 2**20


def mapped(dataset: Any, sources: Callable[[], list[Any]]) -> Iterator[Reader]:
    """Yield a reader for each function that a pipeline maps, the last one first; `sources` are arrays of samples."""
    node = dataset
    while node is not None:
        function = getattr(getattr(node, "_map_func", None), "_func", None)
        inner = getattr(node, "_input_dataset", None)
        if function is not None and inner is not None and "Flat" not in type(node).__name__:
            yield _Mapped(function, inner, sources).reader()
        node = inner


class _Mapped:
    """A mapped function and what it is given; that is kept, since a shuffle gives another order each time."""

    def __init__(self, function: Any, inner: Iterable[Any], sources: Callable[[], list[Any]]) -> None:
        self.function = function
        self.inner = inner
        self.sources = sources
        self.held: list[Any] = []

    def reader(self) -> Reader:
        return Reader(self._calls, index_of=self._index)

    def _calls(self) -> Iterator[Call]:
        is_first, room = not self.held, _MAX_BYTES
        for element in self.inner if is_first else self.held:
            room -= sum(int(tf.size(t)) * t.dtype.size for t in tf.nest.flatten(element) if hasattr(t, "dtype"))
            if room < 0:
                return
            if is_first:
                self.held.append(element)
            yield partial(self.function, *(element if type(element) is tuple else (element,)))

    def _index(self, number: int) -> int | None:
        parts = parts_of([("item", tf.nest.map_structure(lambda value: value[None], self.held[number]))])
        return find_index(parts, 0, self.sources())


class Stop(BaseException):
    """Ends an attempt: its symptom has come."""


@dataclass
class Attempt:
    """One run of a step again, and what came of it."""

    tracer: Tracer | None = None
    what: What | None = None
    name: str = ""
    kind: str = ""
    tensors: list[Any] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    loss: Any = None
    error: BaseException | None = None
    clip: float | None = None
    stops_at_loss: bool = False
    replica: int | None = None
    """Which one's step is run, where several would run it."""
    loss_call: tuple[str, Any, Any] | None = None

    @property
    def is_finite(self) -> bool:
        return self.what is None

    def on_loss(self, loss: Any) -> None:
        """The step has come to its loss."""
        self.loss = loss
        array = to_numpy(loss)
        if array is not None and not all_finite(array):
            self._end("loss", "loss", [loss])

    def on_gradients(self, target: Any, named: list[tuple[str, Any]], is_scaled: bool) -> None:
        self.on_loss(target)
        bad = [(name, g) for name, g in named if not all_finite(to_numpy(g))]
        if bad and not is_scaled:
            self._end("gradient", bad[0][0], [g for _, g in bad])

    def on_end(self, variables: Iterable[tuple[str, Any]]) -> None:
        """The step has ended: its update may be what is not finite."""
        found = [(name, v) for name, v in variables if v.dtype.is_floating and not all_finite(v.numpy())]
        # A weight is named rather than what an optimizer keeps.
        for name, variable in sorted(found, key=lambda item: bool(item[1].trainable)):
            self.what, self.name, self.kind = "parameter", name, kind_of(variable.numpy()) or "nan"
            value = self.tracer.value_of(variable) if self.tracer is not None else None
            self.starts += [value] if value is not None else []

    def _end(self, what: What, name: str, tensors: list[Any]) -> None:
        self.what, self.name, self.tensors = what, name, tensors
        self.kind = kind_of(to_numpy(tensors[0])) or "nan"
        self.starts = [id_of(tensor) for tensor in tensors]
        raise Stop


class Replayer:
    """Runs closures for one incident; everything that they change is put back."""

    def __init__(self, watch: Any, closure: Closure, hooks: Callable[[Attempt, ExitStack], None]) -> None:
        self.watch = watch
        self.closure = closure
        self.hooks = hooks
        self.variables = closure.variables()
        self.saved = SavedVariables(self.variables)
        self.n_runs = 0

    def traced(self) -> Attempt:
        """Run the step with every operation seen."""
        tracer = Tracer()
        for name, variable in self.variables:
            tracer.know_variable(variable, "parameter" if variable.trainable else "buffer", name)
        for part, tensor in self._tensors():
            tracer.know_tensor(tensor, part.role, part.name)
        return self.run(Attempt(tracer=tracer))

    def _tensors(self) -> list[tuple[Any, Any]]:
        parts = self.closure.parts
        by_array = []
        flat = [value for _, value in self.closure.inputs()]
        leaves = [leaf for leaf in tf.nest.flatten(flat) if tf.is_tensor(leaf)]
        arrays = [to_numpy(leaf) for leaf in leaves]
        for part in parts:
            for leaf, array in zip(leaves, arrays):
                if (
                    array is not None
                    and array.shape == part.array.shape
                    and array.ctypes.data == part.array.ctypes.data
                ):
                    by_array.append((part, leaf))
                    break
        return by_array

    def run(self, attempt: Attempt, closure: Closure | None = None, is_restored: bool = True) -> Attempt:
        """Run the step as the attempt says; `closure` instead of the failing one."""
        self.n_runs += 1
        attempt.stops_at_loss = self.closure.stage == "validation"
        chosen = closure or self.closure
        attempt.replica = chosen.replica
        self.watch.attempt = attempt
        try:
            with quiet(), ExitStack() as stack:
                self.hooks(attempt, stack)
                stack.enter_context(Eagerly())
                if attempt.tracer is not None:
                    attempt.tracer.entry = sys._getframe()
                    stack.enter_context(attempt.tracer)
                result = chosen.call()
                if attempt.stops_at_loss and isinstance(chosen, FunctionClosure):
                    loss = loss_in(chosen.function, result)
                    if loss is not None:
                        attempt.on_loss(loss)
            attempt.on_end(self.variables)
        except Stop:
            pass
        except Exception as error:
            attempt.error = error
        finally:
            self.watch.attempt = None
            if is_restored:
                self.saved.restore()
        return attempt

    def began_finite(self) -> bool:
        """Whether the weights that the step begins with are finite."""
        return all(all_finite(v.numpy()) for _, v in self.variables if v.trainable and v.dtype.is_floating)

    def fails(self, closure: Closure | None = None) -> bool:
        """Whether the step, untraced, is not finite."""
        attempt = self.run(Attempt(), closure)
        return attempt.error is None and not attempt.is_finite
