"""The failing step run again with a change: rows of its batch replaced to find the guilty ones, remedies tried.

Invariant of the search: with the rows in `suspects` the step fails, and each half of them has been tried. The batch
keeps its size, so that means, statistics and compiled shapes stay what they were.
"""

import math
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from whynan.adapters.common.arrays import Part, all_finite, find_index, is_floating, others
from whynan.adapters.common.graph import Graph
from whynan.experiments import Measured
from whynan.launch.host import Unwind
from whynan.records import Sample

Rows = list[int]
_MOST = 3
"""Guilty samples of one batch; where there are more, it is not the samples."""


_SECONDS = 20.0


def find_samples(
    parts: Sequence[Part],
    size: int,
    symptom: tuple[Graph, Sequence[int]],
    fails: Callable[[Rows], bool],
    sources: Callable[[], Sequence[Any]],
    deadline: float,
) -> tuple[tuple[Sample, ...], str | None]:
    """Return the guilty samples of a batch, by their index in one of `sources` where that is found, and a note.

    `symptom` is the traced step and its values that are not finite; `fails` as for `find_guilty`.
    """
    graph, starts = symptom
    guesses = [i for part in parts if part.array.ndim and len(part.array) == size and not all_finite(part.array)
               for i in range(size) if not all_finite(part.array[i : i + 1])]  # fmt: skip
    found = graph.slice(starts)
    if found is not None and found.origin is not None:
        guesses += [element[0] for element in found.origin.elements if element]
    try:
        rows, note = find_guilty(size, fails, guesses, min(deadline, time.monotonic() + _SECONDS))
    except Unwind:
        raise
    except Exception as error:
        return (), f"looking for the sample failed: {type(error).__name__}: {error}"
    held = sources() if rows else ()
    return tuple(Sample(row, find_index(parts, row, held), None, why_guilty(rows)) for row in rows), note


def find_guilty(
    size: int, fails: Callable[[Rows], bool], guesses: Sequence[int] = (), deadline: float = float("inf")
) -> tuple[Rows, str | None]:
    """Return the guilty positions, and a note where there is something to say; none where no single row is guilty.

    `fails(rows)` runs the step with row rows[i] of the batch in place i. `guesses` are positions that the origin's
    elements point to.
    """
    if size < 2:
        return [], None
    for guess in list(dict.fromkeys(g for g in guesses if 0 <= g < size))[:3]:
        others = [i for i in range(size) if i != guess]
        if fails([guess] * size) and not fails(_filled(others, size)):
            return [guess], None
    probes = sorted({size * k // 4 for k in range(4)})
    if all(fails([probe] * size) for probe in probes):
        return [], f"samples fail whichever is taken ({len(probes)} were tried alone): no single sample is guilty"
    suspects = list(range(size))
    while len(suspects) > 1 and time.monotonic() < deadline:
        half = suspects[: len(suspects) // 2]
        rest = suspects[len(suspects) // 2 :]
        if fails(_filled(half, size)):
            suspects = half
        elif fails(_filled(rest, size)):
            suspects = rest
        else:
            return [], "the step fails with the whole batch only: no single sample is guilty"
    if len(suspects) != 1:
        return [], "the search for the sample ran out of time"
    return _with_others(suspects[0], size, fails, deadline)


def why_guilty(rows: Rows) -> str:
    return f"with {'this row' if len(rows) == 1 else 'these rows'} replaced by others the step is finite"


def _with_others(first: int, size: int, fails: Callable[[Rows], bool], deadline: float) -> tuple[Rows, str | None]:
    """Return the guilty row and the few others that fail by themselves; none where they are many."""
    guilty = [first]
    while fails(_filled(rest := [i for i in range(size) if i not in guilty], size)):
        if len(guilty) == _MOST or len(rest) < 2 or time.monotonic() > deadline:
            return [], "many samples of the batch fail, each by itself: no single sample is guilty"
        suspects = rest
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            suspects = half if fails(_filled(half, size)) else suspects[len(half) :]
        if not fails(_filled(suspects, size)):
            return guilty, "the other samples of the batch fail together too"
        guilty += suspects
    guilty.sort()
    return guilty, f"{len(guilty)} samples of the batch fail, each by itself" if len(guilty) > 1 else None


def _filled(rows: Rows, size: int) -> Rows:
    """Return `size` rows, those given repeated."""
    return [rows[i % len(rows)] for i in range(size)]


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
        return self._series(**changed) if self.fails_unchanged() else None

    def fails_unchanged(self) -> bool:
        """Whether the control failed; it is run once, before anything is changed."""
        if self._fails_unchanged is None:
            control = self._control()
            self._fails_unchanged = control is not None and self._is_alike(control)
        return self._fails_unchanged

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
        assert self.window.start is not None
        self.window.start.restore()

    def measured(self, attempt: Any, n_steps: int = 1) -> Measured:
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
