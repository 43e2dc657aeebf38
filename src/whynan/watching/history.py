"""Series of numbers over the steps of a run: bounded in memory, recent values exact, older ones thinned.

`GrowthWatch` sees growth while it happens: a loss that rises by orders of magnitude and stays there, step after step.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable

_RECENT = 2048
_OLD = 4096


class Series:
    """One number a step. The last `_RECENT` are kept as they are; of older ones every second goes as they fill up."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._old: list[float] = []
        self._stride = 1
        self._count = 0

    def append(self, value: float) -> None:
        self._recent.append(value)
        if len(self._recent) > _RECENT:
            oldest = self._recent.popleft()
            if self._count % self._stride == 0:
                self._old.append(oldest)
            self._count += 1
            if len(self._old) > _OLD:
                self._old = self._old[::2]
                self._stride *= 2

    def cut(self, length: int) -> None:
        """Take back what was appended beyond `length` recent values."""
        while len(self._recent) > length:
            self._recent.pop()

    def last(self) -> float | None:
        """Return the latest value."""
        return self._recent[-1] if self._recent else None

    @property
    def n_recent(self) -> int:
        return len(self._recent)

    def values(self) -> tuple[float, ...]:
        """Return all that is kept, oldest first."""
        return (*self._old, *self._recent)

    def __len__(self) -> int:
        return len(self._old) + len(self._recent)


class RunHistory:
    """Loss, global gradient norm, learning rate, loss scale: a value for each optimizer step (or backward pass)."""

    def __init__(self) -> None:
        self.loss = Series()
        self.grad_norm = Series()
        self.lr = Series()
        self.scale = Series()
        """The factor of a gradient scaler, where there is one."""
        self.on_step: Callable[[RunHistory], None] | None = None
        """Told after each step that counts, not of a replay's."""

    def ended_step(self) -> None:
        """Say that all of a step's values have been appended."""
        if self.on_step is not None:
            self.on_step(self)

    def lengths(self) -> tuple[int, ...]:
        """Return how long the series are, for `cut`."""
        return tuple(series.n_recent for series in (self.loss, self.grad_norm, self.lr, self.scale))

    def cut(self, lengths: tuple[int, ...]) -> None:
        """Take back what steps that do not count have appended."""
        for series, length in zip((self.loss, self.grad_norm, self.lr, self.scale), lengths):
            series.cut(length)

    def as_dict(self) -> dict[str, tuple[float, ...]]:
        series = {"loss": self.loss, "grad_norm": self.grad_norm, "lr": self.lr, "scale": self.scale}
        return {name: values.values() for name, values in series.items() if len(values)}


_N_EARLY = 20
_FACTOR = 1e6
_N_IN_A_ROW = 20


class GrowthWatch:
    """Takes one loss a step. `since` is the step at which growth was certain; None while there is none.

    A spike comes down again: what counts is `_N_IN_A_ROW` losses in a row, all `_FACTOR` times the early median, the
    last larger than the first. A loss that is next to 0 in the beginning has to become large as a number.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.facts: tuple[float, float] = (0.0, 0.0)
        self._early: list[float] = []
        self._base = 0.0
        self._n_risen = 0
        self._first = 0.0

    def add(self, step: int, loss: float) -> bool:
        """Take the loss of a step; return True once, when growth has become certain."""
        size = abs(loss)
        if not math.isfinite(size) or self.since is not None:
            return False
        if len(self._early) < _N_EARLY:
            self._early.append(size)
            self._base = max(statistics.median(self._early), 1e-3)
            return False
        if size < _FACTOR * self._base:
            self._n_risen = 0
            return False
        self._first = self._first if self._n_risen else size
        self._n_risen += 1
        if self._n_risen < _N_IN_A_ROW or size <= 10 * self._first:
            return False
        self.since = step
        self.facts = (self._base, size)
        return True
