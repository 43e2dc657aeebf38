"""Remedies tried on a MindSpore step: the failing one, or the steps from a saved state up to it."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np

from whynan.adapters.common.arrays import all_finite, is_floating, to_numpy
from whynan.adapters.common.swap import swapped
from whynan.adapters.mindspore.arrays import array_of, map_structure, tensor_like, write
from whynan.adapters.mindspore.closure import Closure, LoopClosure, SavedParameters
from whynan.adapters.mindspore.replay import Attempt, Replayer
from whynan.experiments.verdict import Measured

_STEPS = 96
_BYTES = 192 * 2**20
_SECONDS = 20.0


class Window:
    """The last steps that were run, and the parameters at the first of them."""

    def __init__(self) -> None:
        self.steps: deque[Closure] = deque()
        self.start: SavedParameters | None = None
        self.next_start: SavedParameters | None = None
        self.next_at = 0
        self.from_beginning = False
        self.is_off = False

    def wants_start(self) -> bool:
        """Whether the state before the coming step is to be kept."""
        return not self.is_off and (self.start is None or len(self.steps) - self.next_at >= _STEPS)

    def begin(self, parameters: list[Any], is_first: bool) -> None:
        """Keep the state before a step; the window that began before the last such state is given up."""
        if sum(int(p.nbytes) for p in parameters) > _BYTES:
            self.is_off = True
            return
        saved = SavedParameters(parameters)
        if self.start is None:
            self.start, self.from_beginning = saved, is_first
            self.steps.clear()
        else:
            if self.next_start is not None:
                self.start, self.from_beginning = self.next_start, False
                for _ in range(self.next_at):
                    self.steps.popleft()
            self.next_start = saved
        self.next_at = len(self.steps)

    def note(self, closure: Closure) -> None:
        if self.start is not None:
            self.steps.append(closure)


class Bench:
    """What can be tried on the failing step and on the window before it."""

    def __init__(self, replayer: Replayer, window: Window, deadline: float) -> None:
        self.replayer = replayer
        self.closure = replayer.closure
        self.window = window
        self.deadline = deadline
        self._fails_alike: bool | None = None

    # One step ---------------------------------------------------------------------------------------------------------

    def without_rows(self, rows: list[int]) -> Measured | None:
        kept = self._kept(rows)
        return self._step(self.closure.with_rows(kept)) if kept is not None else None

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        kept = self._kept(rows)
        targets = [part.array for part in self.closure.parts if part.role == "target"]
        if kept is None or not targets:
            return None

        def change(value: Any) -> Any:
            array = to_numpy(value) if not isinstance(value, ms.Tensor) else array_of(value)
            same = any(a.shape == array.shape and a.dtype == array.dtype and np.array_equal(a, array) for a in targets)
            if not same or len(array) != len(kept):
                return value
            return tensor_like(array[kept], value) if isinstance(value, ms.Tensor) else array[kept]

        return self._step(self.closure.mapped(change))

    def _kept(self, rows: list[int]) -> list[int] | None:
        size = self.closure.size or 0
        good = next((i for i in range(size) if i not in rows), None)
        return [good if i in rows else i for i in range(size)] if good is not None else None

    def with_source(self, file: str, source: str) -> Measured | None:
        if isinstance(self.closure, LoopClosure):
            return measured(self.replayer.run(Attempt(), sources={file: source}), 1)
        with swapped({file: source}):
            return self._step(self.closure)

    def in_double(self) -> Measured | None:
        """MindSpore's layers run in the dtype that they were made for: half precision can be widened, no more."""
        cells = [c for o in self.replayer.watch.known_roots() for _, c in o.cells_and_names() if _half(c)]
        if not cells:
            return None
        kinds = [cell.mixed_precision_type for cell in cells]
        try:
            for cell in cells:
                cell.mixed_precision_type = None
            return self._step(self.closure)
        finally:
            for cell, kind in zip(cells, kinds):
                cell.mixed_precision_type = kind

    def _step(self, closure: Closure) -> Measured:
        return measured(self.replayer.run(Attempt(), closure), 1)

    # The steps before it ----------------------------------------------------------------------------------------------

    def with_rate(self, factor: float) -> Measured | None:
        def slower(before: list[tuple[Any, Any]]) -> None:
            for parameter, old in before:
                new = old + (array_of(parameter) - old) * np.asarray(factor, old.dtype)
                write(parameter, new)

        return self._window(after=slower)

    def clipped(self, norm: float) -> Measured | None:
        return self._window(clip=norm)

    def normalized(self) -> Measured | None:
        spread = self._spread()
        return self._window(change=lambda closure: standardised(closure, spread)) if spread is not None else None

    def with_init(self) -> Measured | None:
        if not self.window.from_beginning:
            return None

        def scaled() -> None:
            rng = np.random.default_rng(0)
            for parameter in self.replayer.watch.trained():
                array = array_of(parameter)
                if array.ndim < 2 or not is_floating(array):
                    continue
                spread, fan_in = float(array.std()), math.prod(array.shape[1:])
                new = array / spread / math.sqrt(fan_in) if spread > 0 else rng.normal(0, fan_in**-0.5, array.shape)
                write(parameter, new.astype(array.dtype))

        return self._window(prepare=scaled)

    def with_eps(self, value: float) -> Measured | None:
        watch = self.replayer.watch
        owners = [o for o in watch.known_optimizers() if isinstance(getattr(o, "eps", None), float)]
        owners += [n for ref in watch.norms if (n := ref()) is not None and isinstance(getattr(n, "eps", None), float)]
        small = [owner for owner in owners if owner.eps < value]
        if not small:
            return None
        before = [owner.eps for owner in small]
        try:
            for owner in small:
                owner.eps = value
            return self._window()
        finally:
            for owner, old in zip(small, before):
                owner.eps = old

    def _window(
        self,
        clip: float | None = None,
        change: Callable[[Closure], Closure] | None = None,
        after: Callable[[list[tuple[Any, Any]]], None] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Measured | None:
        """Run the steps of the window, then the failing one, with one thing changed.

        The same steps unchanged are the control: where they don't fail at the same step, nothing is tried.
        """
        if self.window.start is None:
            return None
        if self._fails_alike is None:
            control = self._series(None, None, None, None)
            n = len(self.window.steps) + 1
            self._fails_alike = control is not None and control.failure is not None and control.n_steps == n
        return self._series(clip, change, after, prepare) if self._fails_alike else None

    def _series(
        self,
        clip: float | None,
        change: Callable[[Closure], Closure] | None,
        after: Callable[[list[tuple[Any, Any]]], None] | None,
        prepare: Callable[[], None] | None,
    ) -> Measured | None:
        window, replayer = self.window, self.replayer
        assert window.start is not None
        stop = min(self.deadline, time.monotonic() + _SECONDS)
        try:
            window.start.restore()
            if prepare is not None:
                prepare()
            trained = replayer.watch.trained()
            closures = [*window.steps, self.closure]
            losses: list[float] = []
            for n, closure in enumerate(closures, 1):
                if time.monotonic() > stop:
                    return None
                before = [(p, array_of(p).copy()) for p in trained] if after is not None else []
                attempt = replayer.run(Attempt(clip=clip), change(closure) if change else closure, is_restored=False)
                if not attempt.is_finite or attempt.error is not None:
                    return measured(attempt, n)
                if after is not None:
                    after(before)
                losses.append(attempt.loss or 0.0)
            growth = abs(losses[-1]) / max(abs(losses[0]), 1e-9) if len(losses) > 1 and losses[0] else None
            return Measured(len(closures), losses[-1] if losses else None, growth=growth)
        finally:
            replayer.saved.restore()

    def _spread(self) -> list[tuple[Any, Any] | None] | None:
        """Return mean and standard deviation of each array of data, by its place, over the window."""
        by_place: dict[int, list[Any]] = {}
        for closure in [*self.window.steps, self.closure]:
            for place, array in enumerate(arrays_of(closure)):
                if array.ndim >= 1 and is_floating(array) and array.dtype.itemsize >= 4:
                    by_place.setdefault(place, []).append(array)
        found: list[tuple[Any, Any] | None] = [None] * (max(by_place, default=-1) + 1)
        for place, arrays in by_place.items():
            try:
                joined = np.concatenate(arrays).astype(np.float64)
            except ValueError:
                continue
            axes = tuple(range(joined.ndim - 1)) if joined.ndim == 2 else tuple(range(joined.ndim))
            if all_finite(joined) and float(np.abs(joined).max(initial=0.0)) > 10:
                found[place] = (joined.mean(axes), joined.std(axes) + 1e-6)
        return found if any(found) else None


def arrays_of(closure: Closure) -> list[Any]:
    """Return the arrays of a step's batch, in the order in which `mapped` comes to them."""
    found: list[Any] = []

    def note(value: Any) -> Any:
        found.append(array_of(value) if isinstance(value, ms.Tensor) else value)
        return value

    for _, value in closure.inputs():
        map_structure(value, note)
    return found


def standardised(closure: Closure, spread: list[tuple[Any, Any] | None]) -> Closure:
    """Return the step on data with mean 0 and standard deviation 1, within 5 of them."""
    known = [(array, spread[i] if i < len(spread) else None) for i, array in enumerate(arrays_of(closure))]

    def change(value: Any) -> Any:
        array = array_of(value) if isinstance(value, ms.Tensor) else value
        for other, scale in known:
            if scale is not None and other.shape == array.shape and np.array_equal(other, array):
                new = np.clip((array - scale[0]) / scale[1], -5, 5).astype(array.dtype)
                return tensor_like(new, value) if isinstance(value, ms.Tensor) else new
        return value

    return closure.mapped(change)


def measured(attempt: Attempt, n_steps: int) -> Measured:
    """Return what an attempt showed."""
    if attempt.error is not None:
        return Measured(n_steps, error=type(attempt.error).__name__)
    if not attempt.is_finite:
        return Measured(n_steps, failure=f"{attempt.what} {attempt.kind}")
    return Measured(n_steps, attempt.loss)


def _half(cell: Any) -> bool:
    return getattr(cell, "mixed_precision_type", None) is not None
