"""What is kept of the steps of a run: series of numbers, the last steps by name; how often a look may be taken.

`GrowthWatch` sees growth while it happens: a loss that rises by orders of magnitude and stays there, step after step.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from whynan.records import LookBack


class Budget:
    """Runs a costly check as often as `share` of the elapsed time allows, and always in the first few steps.

    The check's own duration is measured each time; between two runs at least duration / share seconds pass.
    """

    def __init__(self, share: float, n_first: int = 3, free_s: float = 0.0) -> None:
        self.share = share
        self.n_first = n_first
        self.free_s = free_s
        self.n_runs = 0
        self._next = 0.0
        self._began = 0.0

    def is_due(self) -> bool:
        return self.n_runs < self.n_first or time.perf_counter() >= self._next

    def begin(self, spent: float = 0.0) -> None:
        """Begin a check, or go on with one that has taken `spent` seconds before a pause."""
        self._began = time.perf_counter() - spent

    def spent(self) -> float:
        return time.perf_counter() - self._began

    def end(self) -> None:
        now = time.perf_counter()
        self.n_runs += 1
        self.took(now - self._began, now)

    def took(self, seconds: float, now: float | None = None) -> None:
        """Say what the latest check has cost, where that is known only later: `now` is then the present time."""
        # The cheapest checks are not worth thinning: they would only be missed on small models.
        free = seconds <= self.free_s
        self._next = 0.0 if free else (time.perf_counter() if now is None else now) + seconds / self.share


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

    def amend(self, back: int, value: float) -> None:
        """Put a value in place of the one appended `back` values ago, 1 being the last; where it is still recent."""
        if 0 < back <= len(self._recent):
            self._recent[-back] = value

    def cut(self, length: int) -> None:
        """Take back what was appended beyond `length` recent values."""
        while len(self._recent) > length:
            self._recent.pop()

    def last(self) -> float | None:
        return self._recent[-1] if self._recent else None

    @property
    def n_recent(self) -> int:
        return len(self._recent)

    def values(self) -> tuple[float, ...]:
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


MOST_STEPS = 64
_MOST_LAYERS = 40
Rows = Mapping[int, Mapping[str, float]]
"""Numbers by step and name."""


class Trail:
    """The last steps of a run of a framework whose steps are not run once more to look back."""

    def __init__(self) -> None:
        self.weights: Collection[str] | None = None
        """The arrays that are trained, where others have updates too; known when a step has been traced."""
        self._kept: dict[str, deque[tuple[int, Mapping[str, float]]]] = {}

    def note(self, step: int, what: str, values: Mapping[str, float]) -> None:
        """Keep a step's values: `what` is grad_norm, update_ratio or terms."""
        if not values:
            return
        rows = self._kept.setdefault(what, deque(maxlen=MOST_STEPS))
        while rows and rows[-1][0] >= step:
            rows.pop()  # undone by a recovery
        rows.append((step, values))

    def look_back(self, last: int, terms: Mapping[str, float], why: str) -> LookBack | None:
        """Return the steps up to `last`, of which the loss terms are known; None where there is too little."""
        norms, ratios, said = (
            {step: row for step, row in self._kept.get(what, ()) if step <= last}
            for what in ("grad_norm", "update_ratio", "terms")
        )
        if self.weights is not None:
            ratios = {step: {n: v for n, v in row.items() if n in self.weights} for step, row in ratios.items()}
        names = dict.fromkeys(name for rows in (norms, ratios) for row in rows.values() for name in row)
        return look_back(last, (norms, ratios, {}), names, said, terms, "the updates of each array", why)


def look_back(
    last: int,
    tables: tuple[Rows, Rows, Rows],
    layers: Iterable[str],
    said: Rows,
    terms: Mapping[str, float],
    updates: str,
    why: str,
) -> LookBack | None:
    """Return what was seen of the steps up to `last`; None where that is too little to see anything.

    `tables` are gradient norms, updates against weights and activations, each of the `layers`. Of the numbers `said`
    those are loss terms whose names `terms` has, with their values in the last step. `updates` says what is known of
    updates, `why` why nothing else was measured.
    """
    said = {step: {n: v for n, v in row.items() if n in terms} for step, row in said.items()}
    said |= {last: dict(terms)} if terms else {}
    steps = sorted({*said, *(step for table in tables for step in table)})[-MOST_STEPS:]
    if len(steps) < 2:
        return None
    names = [name for name in layers if any(name in row for table in tables for row in table.values())]
    names = most_telling(names, [tables[0].get(step, {}) for step in steps])
    rows = [tuple(tuple(table.get(k, {}).get(name) for k in steps) for name in names) for table in tables]
    rows = [table if any(v is not None for row in table for v in row) else () for table in rows]
    told = {name: tuple(said.get(k, {}).get(name) for k in steps) for name in terms}
    told = {name: values for name, values in told.items() if sum(v is not None for v in values) > 1}
    found = (
        (rows[0], "gradient norms where there was time to read them all"),
        (rows[1], updates),
        (rows[2], "activations of the failing step"),
        (told, "loss terms"),
    )
    if not any(seen for seen, _ in found):
        return None
    note = f"As far as watching has read it: {', '.join(words for seen, words in found if seen)}."
    if steps[-1] - steps[0] >= len(steps):
        note += " Steps of which nothing was read are left out: columns are not evenly apart in time."
    note += f" More was not measured, since the steps were not run once more: {why}."
    return LookBack(tuple(steps), tuple(names), rows[0], rows[1], rows[2], told, note)


def most_telling(names: list[str], norms: Sequence[Mapping[str, float]]) -> list[str]:
    """Return at most `_MOST_LAYERS` layers in their order: those with the largest gradients in the last steps."""
    if len(names) <= _MOST_LAYERS:
        return names

    def weight(name: str) -> float:
        values = [row[name] for row in norms[-8:] if name in row]
        return max((v if math.isfinite(v) else math.inf for v in values), default=0.0)

    kept = set(sorted(names, key=weight, reverse=True)[:_MOST_LAYERS])
    return [name for name in names if name in kept]
