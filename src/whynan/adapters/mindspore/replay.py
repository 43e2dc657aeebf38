"""A training step that can be called again, and its replay in PyNative mode, with every operation seen or without."""

import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import context, log

from whynan.adapters.common.arrays import Part, all_finite, batch_size, kind_of, parts_of
from whynan.adapters.common.body import Again, no_look, nothing
from whynan.adapters.common.loops import Pass, is_innermost
from whynan.adapters.common.patches import quiet
from whynan.adapters.mindspore.dispatch import api, array_of, is_floating, map_structure, tensor_like, tensors_in, write
from whynan.adapters.mindspore.trace import Tracer
from whynan.launch.rewrite import LoopSite
from whynan.records.recording import Stage, What
from whynan.snapshot import target_names

Change = Callable[[Any], Any]
"""Makes another batch of a batch: of the tuple of what a step was given."""
_STEPS = re.compile(r"grad|optimizer|\bopt\b|train|\bstep\(|\bloss|\bnet\(|\bmodel\(", re.IGNORECASE)
_NOT_DATA = (ms.Parameter,)


class Closure(ABC):
    stage: Stage = "train"
    change: Change | None = None

    @abstractmethod
    def call(self, sources: dict[str, str] | None = None) -> Any:
        """Run the step; `sources` are changed files by name."""

    @abstractmethod
    def inputs(self) -> list[tuple[str, Any]]:
        """Return the batch, by name."""

    @abstractmethod
    def changed(self, change: Change) -> "Closure":
        """Return the same step with another batch."""

    def mapped(self, change: Callable[[Any], Any]) -> "Closure":
        """Return the same step with each array of `inputs`, in order, replaced by what `change` makes of it."""
        return self.changed(lambda batch: map_structure(batch, change))

    def with_rows(self, rows: Sequence[int]) -> "Closure":
        """Return the same step with row rows[i] of the batch in place i."""
        size = self.size
        return self.changed(lambda batch: tuple(rows_of(value, rows, size) for value in batch))

    @property
    def size(self) -> int | None:
        """The number of samples: the first dimension of the first array that has others too, else the usual one."""
        first = next((value for _, value in self.inputs() if _is_array(value) and len(value.shape) > 1), None)
        return int(first.shape[0]) if first is not None else batch_size(self.parts)

    @property
    def samples(self) -> tuple[Part, ...]:
        """The parts of the batch that have a row for each sample."""
        return tuple(part for part in self.parts if part.array.ndim and len(part.array) == self.size)

    @property
    def parts(self) -> tuple[Part, ...]:
        return parts_of([(name, map_structure(value, _as_array)) for name, value in self.inputs()])


class CellClosure(Closure):
    """A call of a cell that makes a step: what `Model.train` does with each batch."""

    def __init__(self, cell: Any, args: tuple[Any, ...], stage: Stage = "train", change: Change | None = None) -> None:
        self.cell = cell
        self.args = args
        self.stage = stage
        self.change = change

    def call(self, sources: dict[str, str] | None = None) -> Any:
        return self.cell(*(self.change(self.args) if self.change is not None else self.args))

    def inputs(self) -> list[tuple[str, Any]]:
        return list(zip(_argument_names(self.cell, len(self.args)), self.args))

    def changed(self, change: Change) -> "CellClosure":
        return CellClosure(self.cell, self.args, self.stage, change)


class LoopClosure(Closure):
    """One iteration of the user's loop.

    Its batch is what the differentiated function was given in the iteration (`given`), else what the loop's header has
    bound. An attempt hands `change` to the differentiated function's arguments in the first case.
    """

    def __init__(
        self,
        current: Pass,
        given: list[tuple[str, Any]] | None,
        change: Change | None = None,
        again: Again | None = None,
        stage: Stage = "train",
    ) -> None:
        self.current = current
        self.stage = stage
        self.again = again or Again(current.owner.site, current.frame, current.before)
        self.given = given
        self.change = change

    def call(self, sources: dict[str, str] | None = None) -> Any:
        targets = self._targets() if not self.given and self.change is not None else []

        def changed(values: dict[str, Any]) -> None:
            if targets and self.change is not None:
                values.update(zip(targets, self.change(tuple(values[name] for name in targets))))

        return self.again.run(nothing, no_look, changed, sources)

    def inputs(self) -> list[tuple[str, Any]]:
        return self.given or [(name, self.again.before.values[name]) for name in self._targets()]

    def changed(self, change: Change) -> "LoopClosure":
        return LoopClosure(self.current, self.given, change, self.again, self.stage)

    def _targets(self) -> list[str]:
        return [name for name in target_names(self.current.owner.site) if name in self.again.before.values]


def given_to(function: Any, args: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Return the arrays that a differentiated function was given, by the names of its parameters."""
    named = zip(_argument_names(function, len(args)), args)
    return [(name, value) for name, value in named if _holds_data(value)]


def _holds_data(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_data(item) for item in value)
    return isinstance(value, (ms.Tensor, np.ndarray)) and not isinstance(value, _NOT_DATA) and len(value.shape) > 0


def _argument_names(function: Any, n: int) -> list[str]:
    inner = function
    if isinstance(function, ms.nn.Cell):
        inner = function.construct
        for name in ("network", "_backbone"):
            # The library's own wrappers take (data, label): names that tell a target from an input.
            if type(function).__name__ == "WithLossCell":
                return ["data", "label", *(f"argument {i}" for i in range(2, n))][:n]
            held = getattr(function, name, None)
            if isinstance(held, ms.nn.Cell):
                return _argument_names(held, n)
    try:
        parameters = inspect.signature(inner).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names, *(f"argument {i}" for i in range(len(names), n))][:n]


def rows_of(value: Any, rows: Sequence[int], size: int | None) -> Any:
    """Return an array, or a list with an item a sample, with other rows of its own; what has no rows as it is."""
    if isinstance(value, dict):
        return {key: rows_of(item, rows, size) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == size and not all(_is_array(item) and item.shape[:1] == (size,) for item in value):
            return type(value)(value[i] for i in rows)
        return type(value)(rows_of(item, rows, size) for item in value)
    if not _is_array(value) or len(value.shape) == 0 or value.shape[0] != size:
        return value
    if isinstance(value, ms.Tensor):
        return tensor_like(array_of(value)[list(rows)], value)
    return value[list(rows)]


def _is_array(value: Any) -> bool:
    return isinstance(value, (ms.Tensor, np.ndarray))


def _as_array(value: Any) -> Any:
    return array_of(value) if isinstance(value, ms.Tensor) else value


def may_train(site: LoopSite) -> bool:
    """Whether a loop's own text speaks of a step; of nested ones the innermost that does is meant."""
    return is_innermost(site, _STEPS.search)


class SavedParameters:
    def __init__(self, parameters: Sequence[Any]) -> None:
        self.copies = [
            (parameter, array_of(parameter).copy()) for parameter in parameters if parameter.has_init is False
        ]

    @property
    def n_bytes(self) -> int:
        return sum(int(copy.nbytes) for _, copy in self.copies)

    def restore(self) -> None:
        for parameter, copy in self.copies:
            write(parameter, copy)


class Stop(BaseException):
    """Ends an attempt: its symptom has come."""


@dataclass
class Attempt:
    tracer: Tracer | None = None
    change: Change | None = None
    clip: float | None = None
    what: What | None = None
    name: str = ""
    kind: str = ""
    starts: list[int] = field(default_factory=list)
    loss: float | None = None
    loss_value: int | None = None
    error: BaseException | None = None
    n_updates: int = 0
    is_validation: bool = False
    """Whether the step is one that nothing is trained with."""

    @property
    def is_finite(self) -> bool:
        return self.what is None

    def on_loss(self, loss: Any, root: Any) -> None:
        """The step has come to its loss; `root` is what is differentiated (a scaled loss, where there is a scaler)."""
        self.on_validation(loss)
        if self.tracer is not None:
            self.tracer.follow_back(root)

    def on_validation(self, loss: Any) -> None:
        array = array_of(loss)
        self.loss = float(array.sum())
        if self.tracer is not None:
            self.loss_value = self.tracer.value_of(loss)
        if not all_finite(array):
            self.what, self.name, self.kind = "loss", "loss", kind_of(array) or "nan"
            self.starts = [self.loss_value] if self.loss_value is not None else []
            raise Stop

    def on_gradients(self, named: Iterable[tuple[str, Any]]) -> None:
        bad = [(name, array) for name, array in named if not all_finite(array)]
        if bad:
            self.what, self.name, self.kind = "gradient", bad[0][0], kind_of(bad[0][1]) or "nan"
            self.starts = self.tracer.bad_gradients(bad) if self.tracer is not None else []
            raise Stop
        self.n_updates += 1

    def on_end(self, parameters: Iterable[Any]) -> None:
        """The step has ended: its update, or a running statistic, may be what is not finite."""
        for parameter in parameters:
            if not is_floating(parameter):
                continue
            array = array_of(parameter)
            if not all_finite(array):
                self.what = "parameter" if parameter.requires_grad else "buffer"
                self.name, self.kind = str(parameter.name), kind_of(array) or "nan"
                if self.tracer is not None:
                    value = self.tracer.written(parameter)
                    self.starts = [value] if value is not None else []
                return

    def clipped(self, gradients: Any) -> Any:
        assert self.clip is not None
        arrays = [array_of(g).astype(np.float64) for g in tensors_in(gradients)]
        norm = float(np.sqrt(sum(float((a * a).sum()) for a in arrays)))
        factor = min(1.0, self.clip / (norm + 1e-6))
        return map_structure(gradients, lambda g: tensor_like(array_of(g) * factor, g))


class Replayer:
    """Runs closures for one incident; everything that they change is put back."""

    def __init__(self, watch: Any, closure: Closure, before: SavedParameters | None) -> None:
        self.watch = watch
        self.closure = closure
        if before is not None:
            before.restore()
        self.parameters = watch.changeable()
        self.saved = SavedParameters(self.parameters)

    def traced(self, roots: list[Any]) -> Attempt:
        """Run the step with every operation seen; `roots` are models by which cells have their names."""
        tracer = Tracer(self.watch.places, roots)
        trained = {id(p) for p in self.watch.trained()}
        for parameter in self.parameters:
            tracer.know(parameter, "parameter" if id(parameter) in trained else "buffer", str(parameter.name))
        parts = self.closure.parts
        for tensor in [t for _, value in self.closure.inputs() for t in tensors_in(value)]:
            part = next((part for part in parts if _same(part.array, tensor)), None)
            if part is not None:
                tracer.know(tensor, part.role, part.name)
        return self.run(Attempt(tracer=tracer))

    def run(
        self,
        attempt: Attempt,
        closure: Closure | None = None,
        is_restored: bool = True,
        sources: dict[str, str] | None = None,
    ) -> Attempt:
        """Run the step as the attempt says; `closure` instead of the failing one."""
        chosen = closure or self.closure
        if not isinstance(chosen, CellClosure):
            attempt.change = chosen.change
        attempt.is_validation = chosen.stage == "validation"
        mode = context._get_mode()
        self.watch.attempt = attempt
        depth, self.watch.depth = self.watch.depth, 0
        try:
            if mode == context.GRAPH_MODE:
                ms.set_context(mode=ms.PYNATIVE_MODE)
            with quiet(), _without_log():
                if attempt.tracer is not None:
                    attempt.tracer.entry = sys._getframe()
                    with attempt.tracer:
                        chosen.call(sources)
                else:
                    chosen.call(sources)
            attempt.on_end(self.parameters)
        except Stop:
            api._pynative_executor.clear_res()
        except Exception as error:
            attempt.error = error
            api._pynative_executor.clear_res()
        finally:
            self.watch.attempt = None
            self.watch.depth = depth
            if mode == context.GRAPH_MODE:
                ms.set_context(mode=ms.GRAPH_MODE)
            if is_restored:
                self.saved.restore()
        return attempt

    def fails(self, closure: Closure | None = None) -> bool:
        attempt = self.run(Attempt(), closure)
        return attempt.error is None and not attempt.is_finite


@contextmanager
def _without_log() -> Iterator[None]:
    """Let MindSpore log nothing: what it says of a step run operation by operation, the run did not make it say."""
    logger = log._get_logger()
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def _same(array: Any, tensor: Any) -> bool:
    other = array_of(tensor)
    if other.dtype != array.dtype or other.shape != array.shape:
        return False
    is_float = other.dtype.kind == "f"
    return other.ctypes.data == array.ctypes.data or bool(np.array_equal(other, array, equal_nan=is_float))
