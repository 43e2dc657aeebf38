"""Runs a step again, in PyNative mode: once with every operation seen, as often as is asked without."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import context, log

from whynan.adapters.common.arrays import all_finite, kind_of
from whynan.adapters.common.patches import quiet
from whynan.adapters.mindspore.arrays import array_of, is_floating, map_structure, tensor_like, tensors_in
from whynan.adapters.mindspore.closure import CellClosure, Change, Closure, SavedParameters
from whynan.adapters.mindspore.dispatch import api
from whynan.adapters.mindspore.trace import Tracer
from whynan.records.recording import What


class Stop(BaseException):
    """Ends an attempt: its symptom has come."""


@dataclass
class Attempt:
    """One run of a step again, and what came of it."""

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
        """The step has come to a loss; nothing may be trained with it."""
        array = array_of(loss)
        self.loss = float(array.sum())
        if self.tracer is not None:
            self.loss_value = self.tracer.value_of(loss)
        if not all_finite(array):
            self.what, self.name, self.kind = "loss", "loss", kind_of(array) or "nan"
            self.starts = [self.loss_value] if self.loss_value is not None else []
            raise Stop

    def on_gradients(self, named: Iterable[tuple[str, Any]]) -> None:
        """An optimizer is about to use these gradients."""
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
        """Return gradients scaled to at most the norm that the attempt asks for."""
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
        """Whether the step, untraced, is not finite."""
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
