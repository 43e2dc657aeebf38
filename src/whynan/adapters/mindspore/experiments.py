"""Remedies tried on a MindSpore step: the failing one, or the steps from a saved state up to it."""

import math
import weakref
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from whynan.adapters.common.arrays import is_floating, to_numpy
from whynan.adapters.common.experiments import ReplayBench, Scale, scale_of, standardised, with_attribute
from whynan.adapters.common.patches import swapped
from whynan.adapters.mindspore.dispatch import array_of, map_structure, tensor_like, write
from whynan.adapters.mindspore.replay import Attempt, Closure, LoopClosure
from whynan.experiments import Measured
from whynan.launch.host import tell

if TYPE_CHECKING:
    from whynan.adapters.mindspore.watch import Told


_PLAIN = nn.TrainOneStepCell.construct


class GuardedStep(nn.Cell):  # type: ignore[misc]
    """Gives (loss, its value, the sum of the squared gradients, whether all was finite)."""

    def __init__(self, cell: Any) -> None:
        super().__init__(auto_prefix=False)
        self.network = cell.network
        self.optimizer = cell.optimizer
        self.weights = cell.weights
        self.grad = cell.grad
        self.grad_no_sens = cell.grad_no_sens
        self.grad_reducer = cell.grad_reducer
        self.sense_flag = cell.sense_flag
        self.sens = cell.sens

    def construct(self, *inputs: Any) -> Any:
        loss = self.network(*inputs)
        if self.sense_flag:
            sens = ops.fill(loss.dtype, loss.shape, self.sens)
            grads = self.grad(self.network, self.weights)(*inputs, sens)
        else:
            grads = self.grad_no_sens(self.network, self.weights)(*inputs)
        grads = self.grad_reducer(grads)
        value = loss.astype(ms.float32).sum()
        total = ops.zeros((), ms.float32)
        for grad in grads:
            total = total + ops.square(grad.astype(ms.float32)).sum()
        sound = ops.isfinite(total + value)
        if not sound:
            # A sum of squares may overflow for finite gradients: 0 times each tells.
            nothing = ops.zeros((), ms.float32)
            for grad in grads:
                nothing = nothing + (grad.astype(ms.float32) * 0).sum()
            sound = ops.isfinite(nothing + value)
        if sound:
            loss = ops.depend(loss, self.optimizer(grads))
        return loss, value, total, sound


class Guards:
    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Any], GuardedStep | None]] = {}

    def of(self, cell: Any) -> GuardedStep | None:
        """Return the guarded form of a cell; None where it makes its step in a way of its own."""
        known = self._made.get(id(cell))
        if known is None or known[0]() is not cell:
            known = (weakref.ref(cell), self._make(cell))
            self._made[id(cell)] = known
        return known[1]

    @staticmethod
    def _make(cell: Any) -> GuardedStep | None:
        if type(cell).construct is not _PLAIN or cell.return_grad or cell.use_graceful_exit:
            return None
        try:
            guarded = GuardedStep(cell)
            guarded.set_train(cell.training)
            guarded._jit_config_dict = cell.jit_config_dict
            return guarded
        except Exception as error:
            tell("making a step's update conditional failed", error)
            return None

    def run(self, guarded: GuardedStep, args: tuple[Any, ...]) -> tuple[Any, "Told"]:
        """Run the guarded step; return its loss and what it told."""
        from whynan.adapters.mindspore.watch import Told

        loss, value, total, sound = guarded(*args)
        number, squared = float(array_of(value)), float(array_of(total))
        is_bad = not bool(array_of(sound))
        loss_bad = is_bad and not math.isfinite(number)
        norm = math.sqrt(squared) if math.isfinite(squared) else math.inf
        return loss, Told(loss_bad, is_bad and not loss_bad, number, norm)


class Bench(ReplayBench):
    is_out_first = True

    def attempt(self, clip: float | None = None) -> Attempt:
        return Attempt(clip=clip)

    def trained(self) -> list[Any]:
        return list(self.replayer.watch.trained())

    def read(self, variable: Any) -> Any:
        return array_of(variable).copy()

    def write(self, variable: Any, array: Any) -> None:
        write(variable, array)

    def loss_of(self, attempt: Attempt) -> float | None:
        return attempt.loss

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        kept = self.kept(rows)
        targets = [part.array for part in self.closure.parts if part.role == "target"]
        if kept is None or not targets:
            return None

        def change(value: Any) -> Any:
            array = to_numpy(value) if not isinstance(value, ms.Tensor) else array_of(value)
            same = any(a.shape == array.shape and a.dtype == array.dtype and np.array_equal(a, array) for a in targets)
            if not same or len(array) != len(kept):
                return value
            return tensor_like(array[kept], value) if isinstance(value, ms.Tensor) else array[kept]

        return self.step(self.closure.mapped(change))

    def with_source(self, file: str, source: str) -> Measured | None:
        if isinstance(self.closure, LoopClosure):
            return self.measured(self.replayer.run(Attempt(), sources={file: source}))
        with swapped({file: source}):
            return self.step(self.closure)

    def in_double(self) -> Measured | None:
        """MindSpore's layers run in the dtype that they were made for: half precision can be widened, no more."""
        cells = [c for o in self.replayer.watch.known_roots() for _, c in o.cells_and_names() if _half(c)]
        if not cells:
            return None
        with with_attribute(cells, "mixed_precision_type", lambda cell: None):
            return self.step(self.closure)

    def normalized(self) -> Measured | None:
        spread = self._spread()
        return self._window(change=lambda closure: _standardised(closure, spread)) if any(spread) else None

    def with_eps(self, value: float) -> Measured | None:
        watch = self.replayer.watch
        owners = [*watch.known_optimizers(), *(norm for ref in watch.norms if (norm := ref()) is not None)]
        small = [o for o in owners if isinstance(getattr(o, "eps", None), float) and o.eps < value]
        if not small or self.window.start is None or not self.fails_unchanged():
            return None
        with with_attribute(small, "eps", lambda owner: value):
            return self._window()

    def _is_alike(self, control: Measured) -> bool:
        """The same steps unchanged have to fail at the same step."""
        return super()._is_alike(control) and control.n_steps == len(self.window.steps) + 1

    def _spread(self) -> list[Scale | None]:
        """Return the scale of each array of data, by its place, over the window."""
        by_place: dict[int, list[Any]] = {}
        for closure in [*self.window.steps, self.closure]:
            for place, array in enumerate(_arrays_of(closure)):
                if array.ndim >= 1 and is_floating(array) and array.dtype.itemsize >= 4:
                    by_place.setdefault(place, []).append(array)
        places = range(max(by_place, default=-1) + 1)
        return [scale_of(by_place[place], by_last=False) if place in by_place else None for place in places]


def _arrays_of(closure: Closure) -> list[Any]:
    found: list[Any] = []

    def note(value: Any) -> Any:
        found.append(array_of(value) if isinstance(value, ms.Tensor) else value)
        return value

    for _, value in closure.inputs():
        map_structure(value, note)
    return found


def _standardised(closure: Closure, spread: list[Scale | None]) -> Closure:
    """Return the step on data with mean 0 and standard deviation 1."""
    known = [(array, spread[i] if i < len(spread) else None) for i, array in enumerate(_arrays_of(closure))]

    def change(value: Any) -> Any:
        array = array_of(value) if isinstance(value, ms.Tensor) else value
        for other, scale in known:
            if scale is not None and other.shape == array.shape and np.array_equal(other, array):
                new = standardised(array, scale)
                return tensor_like(new, value) if isinstance(value, ms.Tensor) else new
        return value

    return closure.mapped(change)


def _half(cell: Any) -> bool:
    return getattr(cell, "mixed_precision_type", None) is not None
