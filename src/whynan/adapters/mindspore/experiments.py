"""Remedies tried on a MindSpore step: the failing one, or the steps from a saved state up to it."""

from typing import Any

import mindspore as ms
import numpy as np

from whynan.adapters.common.arrays import is_floating, to_numpy
from whynan.adapters.common.experiments import ReplayBench, Scale, scale_of, standardised, with_attribute
from whynan.adapters.common.patches import swapped
from whynan.adapters.mindspore.dispatch import array_of, map_structure, tensor_like, write
from whynan.adapters.mindspore.replay import Attempt, Closure, LoopClosure
from whynan.experiments import Measured


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
