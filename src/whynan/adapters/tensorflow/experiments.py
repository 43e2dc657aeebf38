"""Remedies tried on a TensorFlow step: the failing one, or the steps from a saved state up to it."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from whynan.adapters.common.arrays import all_finite, is_floating, to_numpy
from whynan.adapters.common.swap import swapped
from whynan.adapters.tensorflow.closure import Closure, FitClosure, map_structure
from whynan.adapters.tensorflow.facts import optimizer_in
from whynan.adapters.tensorflow.replay import Attempt, Replayer
from whynan.experiments.verdict import Measured

_STEPS = 96
_BYTES = 192 * 2**20
_SECONDS = 20.0
Saved = dict[int, tuple[Any, Any]]


class Window:
    """The last steps that were run, and the variables' values at the first of them."""

    def __init__(self) -> None:
        self.steps: deque[Closure] = deque()
        self.start: Saved | None = None
        self.next_start: Saved | None = None
        self.next_at = 0
        self.from_beginning = False
        self.n_bytes = 0

    def wants_start(self) -> bool:
        """Whether the state before the coming step is to be kept."""
        return self.start is None or len(self.steps) - self.next_at >= _STEPS

    def begin(self, variables: list[tuple[str, Any]], is_first: bool) -> None:
        """Keep the state before a step; the window that began before the last such state is given up."""
        size = sum(int(np.prod(v.shape)) * v.dtype.size for _, v in variables if v.dtype.is_numpy_compatible)
        if size > _BYTES:
            self.start = None
            return
        saved = {id(v): (v, v.numpy()) for _, v in variables if v.dtype.is_numpy_compatible}
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
        self._is_usable: bool | None = None

    # One step ---------------------------------------------------------------------------------------------------------

    def without_rows(self, rows: list[int]) -> Measured | None:
        size = len(self.closure.parts[0].array)
        good = [i for i in range(size) if i not in rows]
        kept = [i if i not in rows else good[0] for i in range(size)]
        return self._step(self.closure.with_rows(kept)) if good else None

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        if not isinstance(self.closure, FitClosure) or not isinstance(self.closure.data, (tuple, list)):
            return None
        if len(self.closure.data) < 2:
            return None
        size = len(self.closure.parts[0].array)
        good = next((i for i in range(size) if i not in rows), None)
        if good is None:
            return None
        data = list(self.closure.data)
        data[1] = map_structure(data[1], lambda v: tf.gather(v, [good if i in rows else i for i in range(size)]))
        return self._step(self.closure.with_data(tuple(data)))

    def with_source(self, file: str, source: str) -> Measured | None:
        with swapped({file: source}):
            return self._step(self.closure)

    def in_double(self) -> Measured | None:
        """Run a step of half precision in float32; what is float32 already can't be run in float64 by Keras' layers."""
        if not isinstance(self.closure, FitClosure):
            return None
        layers = [
            layer for layer in self.closure.model._flatten_layers() if layer.compute_dtype in ("float16", "bfloat16")
        ]
        if not layers:
            return None
        policies = [layer.dtype_policy for layer in layers]
        try:
            for layer in layers:
                layer.dtype_policy = "float32"
            return self._step(self.closure)
        finally:
            for layer, policy in zip(layers, policies, strict=True):
                layer.dtype_policy = policy

    def _step(self, closure: Closure) -> Measured:
        return measured(self.replayer.run(Attempt(), closure), 1)

    # The steps before it ----------------------------------------------------------------------------------------------

    def with_rate(self, factor: float) -> Measured | None:
        def slower(before: list[tuple[Any, Any]]) -> None:
            for variable, old in before:
                variable.assign(old + (variable.numpy() - old) * np.asarray(factor, old.dtype))

        return self._window(after=slower)

    def clipped(self, norm: float) -> Measured | None:
        return self._window(clip=norm)

    def normalized(self) -> Measured | None:
        spread = self._spread()
        if spread is None:
            return None
        return self._window(change=lambda closure: standardised(closure, spread))

    def with_init(self) -> Measured | None:
        if not self.window.from_beginning:
            return None

        def scaled() -> None:
            for _, variable in self.replayer.variables:
                if not variable.trainable or len(variable.shape) < 2:
                    continue
                array = variable.numpy()
                spread = float(array.std())
                fan_in = math.prod(array.shape[:-1])
                if spread > 0:
                    variable.assign(array / spread / math.sqrt(fan_in))
                else:
                    rng = np.random.default_rng(0)
                    variable.assign(rng.normal(0, 1 / math.sqrt(fan_in), array.shape).astype(array.dtype))

        return self._window(prepare=scaled)

    def with_eps(self, value: float) -> Measured | None:
        optimizer = optimizer_in(self.closure)
        owners = [optimizer] if optimizer is not None and getattr(optimizer, "epsilon", None) is not None else []
        if isinstance(self.closure, FitClosure):
            owners += [x for x in self.closure.model._flatten_layers() if getattr(x, "epsilon", None) is not None]
        small = [owner for owner in owners if owner.epsilon < value]
        if not small:
            return None
        before = [owner.epsilon for owner in small]
        try:
            for owner in small:
                owner.epsilon = value if owner is not optimizer else 1e-7
            return self._window()
        finally:
            for owner, old in zip(small, before, strict=True):
                owner.epsilon = old

    def _window(
        self,
        clip: float | None = None,
        change: Callable[[Closure], Closure] | None = None,
        after: Callable[[list[tuple[Any, Any]]], None] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Measured | None:
        """Run the steps of the window, then the failing one, with one thing changed.

        The same steps unchanged are the control: where none of them fails, nothing is tried over them.
        """
        if self.window.start is None:
            return None
        if self._is_usable is None:
            control = self._series()
            self._is_usable = control is not None and control.failure is not None
        return self._series(clip, change, after, prepare) if self._is_usable else None

    def _series(
        self,
        clip: float | None = None,
        change: Callable[[Closure], Closure] | None = None,
        after: Callable[[list[tuple[Any, Any]]], None] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Measured | None:
        window, replayer = self.window, self.replayer
        stop = min(self.deadline, time.monotonic() + _SECONDS)
        replayer.variables = self.closure.variables()
        try:
            self._rewind()
            if prepare is not None:
                prepare()
            trained = [v for _, v in replayer.variables if v.trainable and v.dtype.is_floating]
            closures = [*window.steps, self.closure]
            losses: list[float] = []
            for n, closure in enumerate(closures, 1):
                if time.monotonic() > stop:
                    return None
                before = [(v, v.numpy()) for v in trained] if after is not None else []
                attempt = replayer.run(Attempt(clip=clip), change(closure) if change else closure, is_restored=False)
                if not attempt.is_finite or attempt.error is not None:
                    return measured(attempt, n)
                if after is not None:
                    after(before)
                losses.append(_number(attempt.loss))
            growth = _growth(losses)
            return Measured(len(closures), losses[-1] if losses else None, growth=growth)
        finally:
            replayer.saved.restore()

    def _rewind(self) -> None:
        start = self.window.start or {}
        for name, variable in self.replayer.variables:
            known = start.get(id(variable))
            if known is not None:
                variable.assign(known[1])
            elif "learning_rate" not in name and variable.dtype.is_numpy_compatible and not variable.trainable:
                variable.assign(np.zeros(variable.shape, variable.dtype.as_numpy_dtype))

    def _spread(self) -> dict[int, tuple[Any, Any]] | None:
        """Return mean and standard deviation of each floating-point array of data, by its place, over the window."""
        closures = [*self.window.steps, self.closure]
        by_place: dict[int, list[Any]] = {}
        for closure in closures[-_STEPS:]:
            for place, leaf in enumerate(tf.nest.flatten([v for _, v in closure.inputs()])):
                array = to_numpy(leaf) if hasattr(leaf, "shape") else None
                if array is not None and array.ndim >= 1 and is_floating(array) and array.dtype.itemsize >= 4:
                    by_place.setdefault(place, []).append(array)
        found = {}
        for place, arrays in by_place.items():
            joined = np.concatenate(arrays).astype(np.float64)
            if not all_finite(joined):
                continue
            axes = tuple(range(joined.ndim - 1)) if joined.ndim >= 2 else (0,)
            mean, std = joined.mean(axes), joined.std(axes)
            if float(np.abs(joined).max(initial=0.0)) > 10:
                # A single outlier must not be what sets the scale: values are bounded after.
                found[place] = (mean, std + 1e-6)
        return found or None


def standardised(closure: Closure, spread: dict[int, tuple[Any, Any]]) -> Closure:
    """Return the step on data with mean 0 and standard deviation 1, within 5 of them."""
    places = iter(range(1_000_000))

    def change(value: Any) -> Any:
        place = next(places)
        if place not in spread:
            return value
        mean, std = spread[place]
        array = to_numpy(value)
        new = np.clip((array - mean) / std, -5, 5).astype(array.dtype)
        return tf.constant(new) if tf.is_tensor(value) else new

    return closure.mapped(change)


def measured(attempt: Attempt, n_steps: int) -> Measured:
    """Return what an attempt showed."""
    if attempt.error is not None:
        return Measured(n_steps, error=type(attempt.error).__name__)
    if not attempt.is_finite:
        return Measured(n_steps, failure=f"{attempt.what} {attempt.kind}")
    return Measured(n_steps, _number(attempt.loss))


def _number(loss: Any) -> float:
    array = to_numpy(loss) if loss is not None else None
    return float(np.sum(array)) if array is not None else 0.0


def _growth(losses: list[float]) -> float | None:
    if len(losses) < 2 or not losses[0]:
        return None
    return abs(losses[-1]) / max(abs(losses[0]), 1e-9)
