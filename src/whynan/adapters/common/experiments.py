"""What benches of several frameworks have in common: the control, the series of steps, how data are standardised."""

import math
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from whynan.adapters.common.arrays import all_finite, is_floating
from whynan.experiments.verdict import Measured

_STEPS = 96
_BYTES = 192 * 2**20
SECONDS = 20.0
"""The most that a series of steps may take."""
Scale = tuple[Any, Any]
"""Mean and standard deviation."""


class Saved(Protocol):
    """A state that can be put back."""

    def restore(self) -> None:
        """Put it back."""


class Window:
    """The last steps that were run, and what the first of them started from."""

    def __init__(self) -> None:
        self.steps: deque[Any] = deque()
        self.start: Saved | None = None
        self.from_beginning = False
        self.is_off = False
        self._next: Saved | None = None
        self._next_at = 0

    def wants_start(self) -> bool:
        """Whether the state before the coming step is to be kept."""
        return not self.is_off and (self.start is None or len(self.steps) - self._next_at >= _STEPS)

    def begin(self, n_bytes: int, save: Callable[[], Saved], is_first: bool) -> None:
        """Keep the state before a step; the window that began before the last such state is given up."""
        if n_bytes > _BYTES:
            self.start, self.is_off = None, True
            return
        saved = save()
        if self.start is None:
            self.start, self.from_beginning = saved, is_first
            self.steps.clear()
        else:
            if self._next is not None:
                self.start, self.from_beginning = self._next, False
                for _ in range(self._next_at):
                    self.steps.popleft()
            self._next = saved
        self._next_at = len(self.steps)

    def note(self, closure: Any) -> None:
        if self.start is not None:
            self.steps.append(closure)


class CommonBench(ABC):
    """What can be tried; each attempt over a window of steps needs the same steps unchanged to have failed."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._fails_unchanged: bool | None = None

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        return None

    def with_eps(self, value: float) -> Measured | None:
        return None

    def _window(self, **changed: Any) -> Measured | None:
        """Run the steps of the window, then the failing one, with one thing changed.

        The same steps unchanged are the control: where none of them fails, nothing is tried over them.
        """
        if self._fails_unchanged is None:
            control = self._control()
            self._fails_unchanged = control is not None and self._is_alike(control)
        return self._series(**changed) if self._fails_unchanged else None

    def _control(self) -> Measured | None:
        return self._series()

    def _is_alike(self, control: Measured) -> bool:
        return control.failure is not None

    @abstractmethod
    def _series(self, *args: Any, **changed: Any) -> Measured | None:
        """Run the steps with what is changed; None where that can't be done in time."""

    def _until(self) -> float:
        return min(self.deadline, time.monotonic() + SECONDS)


class ReplayBench(CommonBench):
    """A bench on a `Replayer`, whose steps read and write variables in place."""

    is_out_first = False
    """Whether kernels are laid out (out, in, ...)."""

    def __init__(self, replayer: Any, window: Window, deadline: float) -> None:
        super().__init__(deadline)
        self.replayer = replayer
        self.closure = replayer.closure
        self.window = window

    @abstractmethod
    def trained(self) -> Sequence[Any]:
        """Return the variables that are trained, of floating point."""

    @abstractmethod
    def read(self, variable: Any) -> Any:
        """Return a copy of a variable's numbers."""

    @abstractmethod
    def write(self, variable: Any, array: Any) -> None:
        """Put numbers into a variable."""

    @abstractmethod
    def attempt(self, clip: float | None = None) -> Any:
        """Return a new attempt."""

    @abstractmethod
    def loss_of(self, attempt: Any) -> float | None:
        """Return the loss that an attempt has come to."""

    @abstractmethod
    def normalized(self) -> Measured | None:
        """Run the steps up to the failing one on standardised data."""

    def rewind(self) -> None:
        """Go back to the window's start."""
        assert self.window.start is not None
        self.window.start.restore()

    def measured(self, attempt: Any, n_steps: int = 1) -> Measured:
        """Return what an attempt showed."""
        if attempt.error is not None:
            return Measured(n_steps, error=type(attempt.error).__name__)
        if not attempt.is_finite:
            return Measured(n_steps, failure=f"{attempt.what} {attempt.kind}")
        return Measured(n_steps, self.loss_of(attempt))

    def step(self, closure: Any) -> Measured:
        return self.measured(self.replayer.run(self.attempt(), closure))

    def without_rows(self, rows: list[int]) -> Measured | None:
        kept = self.kept(rows)
        return self.step(self.closure.with_rows(kept)) if kept is not None else None

    def kept(self, rows: list[int]) -> list[int] | None:
        """Return a row for each place of the batch, none of `rows` among them."""
        return others(self.closure.size, rows)

    def with_rate(self, factor: float) -> Measured | None:
        def slower(before: list[tuple[Any, Any]]) -> None:
            for variable, old in before:
                self.write(variable, old + (self.read(variable) - old) * old.dtype.type(factor))

        return self._window(after=slower)

    def clipped(self, norm: float) -> Measured | None:
        return self._window(clip=norm)

    def with_init(self) -> Measured | None:
        return self._window(prepare=self._scale) if self.window.from_beginning else None

    def _scale(self) -> None:
        """Scale the weights by their fan-in; those that are all equal are drawn anew."""
        rng = sys.modules["numpy"].random.default_rng(0)
        for variable in self.trained():
            array = self.read(variable)
            if array.ndim < 2 or not is_floating(array):
                continue
            spread = float(array.std())
            fan_in = math.prod(array.shape[1:] if self.is_out_first else array.shape[:-1])
            new = array / spread / math.sqrt(fan_in) if spread > 0 else rng.normal(0, fan_in**-0.5, array.shape)
            self.write(variable, new.astype(array.dtype))

    def _window(self, **changed: Any) -> Measured | None:
        return super()._window(**changed) if self.window.start is not None else None

    def _series(
        self,
        clip: float | None = None,
        change: Callable[[Any], Any] | None = None,
        after: Callable[[list[tuple[Any, Any]]], None] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Measured | None:
        stop = self._until()
        try:
            self.rewind()
            if prepare is not None:
                prepare()
            trained = self.trained()
            closures = [*self.window.steps, self.closure]
            losses: list[float] = []
            for n, closure in enumerate(closures, 1):
                if time.monotonic() > stop:
                    return None
                before = [(v, self.read(v)) for v in trained] if after is not None else []
                given = change(closure) if change is not None else closure
                attempt = self.replayer.run(self.attempt(clip), given, is_restored=False)
                if not attempt.is_finite or attempt.error is not None:
                    return self.measured(attempt, n)
                if after is not None:
                    after(before)
                losses.append(self.loss_of(attempt) or 0.0)
            return Measured(len(closures), losses[-1], growth=growth_of(losses))
        finally:
            self.replayer.saved.restore()


@contextmanager
def with_attribute(owners: Sequence[Any], name: str, value_of: Callable[[Any], Any]) -> Iterator[None]:
    """Let an attribute of several objects have another value for a while."""
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value_of(owner))
        yield
    finally:
        for owner, old in zip(owners, before, strict=True):
            setattr(owner, name, old)


def others(size: int | None, rows: list[int]) -> list[int] | None:
    """Return the positions of a batch with `rows` replaced by the first other one; None where there is none."""
    good = next((i for i in range(size or 0) if i not in rows), None)
    return [good if i in rows else i for i in range(size or 0)] if good is not None else None


def growth_of(losses: Sequence[float]) -> float | None:
    """Return the last loss over the first."""
    return abs(losses[-1]) / max(abs(losses[0]), 1e-9) if len(losses) > 1 and losses[0] else None


def scale_of(arrays: Sequence[Any], by_last: bool) -> Scale | None:
    """Return the scale of joined arrays, for each column (with `by_last` of more dimensions too); None: it is usual."""
    np = sys.modules["numpy"]
    try:
        joined = np.concatenate(arrays).astype(np.float64)
    except ValueError:
        return None
    if not all_finite(joined) or float(np.abs(joined).max(initial=0.0)) <= 10:
        return None
    axes = tuple(range(joined.ndim - 1 if joined.ndim == 2 or (by_last and joined.ndim > 1) else joined.ndim))
    return joined.mean(axes), joined.std(axes) + 1e-6


def standardised(array: Any, scale: Scale) -> Any:
    """Return an array with mean 0 and standard deviation 1, within 5: a single outlier must not set the scale."""
    mean, std = scale
    return sys.modules["numpy"].clip((array - mean) / std, -5, 5).astype(array.dtype)
