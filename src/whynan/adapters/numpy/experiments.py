"""Remedies tried on an iteration of a NumPy loop, or on the iterations from a kept state up to it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from whynan.adapters.common.arrays import batch_size, others
from whynan.adapters.common.body import Again, Reached, State
from whynan.adapters.common.experiments import CommonBench, Scale, growth_of, scale_of, standardised
from whynan.adapters.common.run import Sizes, measure
from whynan.adapters.numpy.explain import RATES, Seen, data_gathers, header_parts, header_rows, seen_in
from whynan.adapters.numpy.replay import Recorder, answering
from whynan.experiments import Measured

_STEPS = 128
_MOST_BYTES = 64 * 2**20
"""Larger arrays are data."""
After = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None]
"""Told of the updated arrays before an iteration, of those after it, and of all names."""


@dataclass
class Window:
    """The last iterations: the state whole before the first of them, of all the names that they were given."""

    start: State | None = None
    given: list[dict[str, Any]] = field(default_factory=list)
    from_beginning: bool = True
    measured: Sizes = field(default_factory=dict)
    """The sizes of all arrays before the run's first iteration, by name."""
    _next: tuple[State, int] | None = None

    def note(self, before: State, assigned: frozenset[str]) -> None:
        if self.start is None:
            self.start = before
            self.measured = measure(
                (name, copy) for name, _, copy in before.copies if copy.dtype.kind == "f" and copy.nbytes <= _MOST_BYTES
            )
        if len(self.given) - (self._next[1] if self._next else 0) >= _STEPS // 2:
            if self._next is not None:
                self.start, n = self._next
                self.from_beginning = False
                del self.given[:n]
            self._next = before, len(self.given)
        self.given.append({name: value for name, value in before.values.items() if name not in assigned})


class Bench(CommonBench):
    """What can be tried. `name` is the variable that went bad."""

    def __init__(self, again: Again, seen: Seen, window: Window, deadline: float) -> None:
        super().__init__(deadline)
        self.again = again
        self.name = seen.name
        self.seen = seen
        self.window = window
        gathers = data_gathers(seen)
        self.owners = {id(owner) for _, owner, _, _ in gathers}
        sizes = [len(result) for _, _, _, result in gathers]
        self.is_in_header = not sizes
        self.size = max(sizes, key=sizes.count) if sizes else batch_size(header_parts(again)) or 0

    def without_rows(self, rows: list[int]) -> Measured | None:
        kept = others(self.size, rows)
        if kept is None:
            return None
        if self.is_in_header:
            return self._once(None, change=header_rows(self.again, kept))
        return self._once(
            lambda owner, index, result: (
                result[np.asarray(kept)] if len(result) == self.size and id(owner) in self.owners else result
            )
        )

    def with_source(self, file: str, source: str) -> Measured | None:
        return self._once(None, sources={file: source})

    def in_double(self) -> Measured | None:
        narrow = [a for _, a in self.again.before.reached.arrays.values() if a.dtype in (np.float32, np.float16)]
        if not narrow:
            return None
        wide = {id(array): array.astype(np.float64) for array in narrow}

        def widen(values: dict[str, Any]) -> None:
            for owner in [values, *self.again.before.reached.owners.values()]:
                space = owner if isinstance(owner, dict) else vars(owner) if hasattr(owner, "__dict__") else {}
                for key, value in list(space.items()):
                    if id(value) in wide:
                        space[key] = wide[id(value)]

        return self._once(None, change=widen)

    def _once(self, on_rows: Any, sources: dict[str, str] | None = None,
              change: Callable[[dict[str, Any]], None] | None = None) -> Measured:  # fmt: skip
        recorder = Recorder(self.again.function, is_tracing=False)
        recorder.on_rows = on_rows
        try:
            return self.again.run(
                answering(recorder), lambda values: self._measured(recorder, values, 1), change, sources
            )
        except Exception as error:
            return Measured(1, error=type(error).__name__)

    def _measured(self, recorder: Recorder, values: dict[str, Any], n_steps: int) -> Measured:
        seen = seen_in(recorder, values, self.name)
        if seen.is_bad:
            return Measured(n_steps, failure=f"{self.name} is not finite")
        updated = self._updated()
        for label, array in Reached(values).arrays.values():
            if label in updated and array.dtype.kind == "f" and not np.isfinite(array).all():
                return Measured(n_steps, failure=f"{label} is not finite")
        number = (
            float(np.asarray(seen.value).reshape(-1)[0])
            if np.size(seen.value) == 1 and seen.value is not None
            else None
        )
        return Measured(n_steps, number if seen.loss is not None else None)

    def _updated(self) -> set[str]:
        return self.again.before.changed(self.again.after.reached)

    def with_rate(self, factor: float) -> Measured | None:
        if len(self.window.given) < 2:
            # Nothing comes after the only iteration, and it may hold many updates.
            return (
                self._once(None, change=partial(self._slow, factor)) if self._rates(self.again.before.values) else None
            )

        def slower(before: dict[str, Any], arrays: dict[str, Any], values: dict[str, Any]) -> None:
            for name, array in arrays.items():
                if name in before and array.shape == before[name].shape and array.flags.writeable:
                    array[...] = before[name] + factor * (array - before[name])

        return self._window(after=slower)

    def _rates(self, values: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
        """Return where numbers that are called like a learning rate stand: among the names, and in the objects."""
        owners = [vars(o) for o in self.again.before.reached.owners.values() if hasattr(o, "__dict__")]
        return [(space, name) for space in [values, *owners] for name in RATES if isinstance(space.get(name), float)]

    def _slow(self, factor: float, values: dict[str, Any]) -> None:
        for space, name in self._rates(values):
            space[name] *= factor

    def clipped(self, norm: float) -> Measured | None:
        plain = self.again.plain
        if plain is None:
            return None
        return self._window(after=lambda before, arrays, values: shorten(before, arrays, plain, norm))

    def normalized(self) -> Measured | None:
        spread: dict[int, Scale] = {}
        for _, owner, _, _ in self.seen.recorder.gathers:
            if owner.dtype.kind == "f" and owner.ndim:
                scale = scale_of([owner], by_last=False)
                if scale is not None:
                    spread[id(owner)] = scale
        if not spread:
            return None

        def rescaled(owner: Any, index: Any, result: Any) -> Any:
            return standardised(result, spread[id(owner)]) if id(owner) in spread else result

        return self._window(on_rows=rescaled)

    def with_init(self) -> Measured | None:
        if not self.window.from_beginning:
            return None

        def scaled(arrays: dict[str, Any]) -> None:
            for array in arrays.values():
                spread, fan_in = float(array.std()) if array.size else 0.0, math.prod(array.shape[:-1])
                if array.ndim >= 2 and spread * math.sqrt(fan_in) > 2:
                    array /= spread * math.sqrt(fan_in)

        return self._window(prepare=scaled)

    def _window(self, **changed: Any) -> Measured | None:
        return super()._window(**changed) if self.window.start is not None else None

    def _series(
        self,
        on_rows: Any = None,
        after: After | None = None,
        prepare: Callable[[dict[str, Any]], None] | None = None,
    ) -> Measured | None:
        window = self.window
        assert window.start is not None
        updated = self._updated()
        stop = self._until()
        losses: list[float] = []

        def step(recorder: Recorder, n: int, values: dict[str, Any]) -> Measured:
            result = self._measured(recorder, values, n)
            if result.failure is None and after is not None:
                after(kept, _floats(values, updated), values)
            carried.update({k: v for k, v in values.items() if k in self.again.site.assigned})
            return result

        carried: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        self.again.begin_series(window.start)
        try:
            for n, given in enumerate(window.given, 1):
                values = {**window.start.values, **carried, **given}
                arrays = _floats(values, updated)
                if n == 1 and prepare is not None:
                    prepare(arrays)
                kept = {name: array.copy() for name, array in arrays.items()} if after is not None else {}
                recorder = Recorder(self.again.function, is_tracing=False)
                recorder.on_rows = on_rows
                result = self.again.next_in_series(answering(recorder), values, partial(step, recorder, n))
                if result.failure is not None:
                    return result
                losses.append(result.loss or 0.0)
                if time.monotonic() > stop:
                    return None
        except Exception as error:
            return Measured(len(losses) + 1, error=type(error).__name__)
        finally:
            self.again.end_series()
        last = losses[-1] if losses and losses[-1] else None
        return Measured(len(window.given), last, growth=growth_of(losses))


def shorten(before: dict[str, Any], arrays: dict[str, Any], plain: tuple[float, set[str]], norm: float) -> None:
    """Make updates `-rate * gradient` what they are for gradients of a norm of no more than `norm`."""
    rate, weights = plain
    steps = {name: array - before[name] for name, array in arrays.items()
             if name in weights and name in before and array.shape == before[name].shape}  # fmt: skip
    total = math.sqrt(sum(float(np.sum(np.square(step, dtype=np.float64))) for step in steps.values())) / rate
    for name, step in steps.items() if norm < total < math.inf else ():
        if arrays[name].flags.writeable:
            arrays[name][...] = before[name] + step * (norm / total)


def _floats(values: dict[str, Any], updated: set[str]) -> dict[str, Any]:
    return {label: array for label, array in Reached(values).arrays.values()
            if label in updated and array.dtype.kind == "f"}  # fmt: skip
