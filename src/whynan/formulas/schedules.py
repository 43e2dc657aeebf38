"""Learning-rate schedules as lists, for frameworks that take lists or nothing at all; what a range test suggests."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any


def check(warmup_steps: int, total_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"total_steps: must be above warmup_steps={warmup_steps}, is {total_steps}")


def rise(peak: float, warmup_steps: int, start_factor: float) -> list[float]:
    return [peak * (start_factor + (1 - start_factor) * step / warmup_steps) for step in range(warmup_steps)]


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, min_lr: float = 0.0, start_factor: float = 0.01
) -> list[float]:
    """Return the learning rate of each step: a linear warm-up to `peak`, then half a cosine down to `min_lr`."""
    check(warmup_steps, total_steps)
    rest = total_steps - warmup_steps
    fall = [min_lr + (peak - min_lr) * (1 + math.cos(math.pi * step / rest)) / 2 for step in range(rest)]
    return rise(peak, warmup_steps, start_factor) + fall


def warmup_polynomial(
    peak: float, warmup_steps: int, total_steps: int, power: float = 1.0, start_factor: float = 0.01
) -> list[float]:
    """Return the learning rate of each step: a linear warm-up to `peak`, then (1 - progress)^power down to 0."""
    check(warmup_steps, total_steps)
    rest = total_steps - warmup_steps
    return rise(peak, warmup_steps, start_factor) + [peak * (1 - step / rest) ** power for step in range(rest)]


def warmup_step(
    peak: float,
    warmup_steps: int,
    total_steps: int,
    milestones: list[int],
    gamma: float = 0.1,
    start_factor: float = 0.01,
) -> list[float]:
    """Return the learning rate of each step: a linear warm-up to `peak`, then a factor `gamma` at each milestone."""
    check(warmup_steps, total_steps)
    fall = [peak * gamma ** sum(step >= m for m in milestones) for step in range(warmup_steps, total_steps)]
    return rise(peak, warmup_steps, start_factor) + fall


@dataclass(frozen=True)
class RangeTest:
    """Losses at rising learning rates (Smith, 2017)."""

    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged_at: float | None
    """The learning rate at which the loss left the numbers or grew beyond bounds."""

    @property
    def suggestion(self) -> float | None:
        """The learning rate at which the smoothed loss falls fastest, per decade; None where it nowhere falls."""
        best, chosen = 0.0, None
        # Over a tenth of the test to both sides, so that the noise of batches does not decide.
        window = max(1, len(self.smoothed) // 10)
        for index in range(window, len(self.smoothed) - window):
            rise = self.smoothed[index + window] - self.smoothed[index - window]
            decades = math.log10(self.learning_rates[index + window] / self.learning_rates[index - window])
            if decades > 0 and rise / decades < best:
                best, chosen = rise / decades, self.learning_rates[index]
        return chosen

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the loss over the learning rate, with the suggestion; into a file where a path is given. Needs
        matplotlib.

        Returns:
            The matplotlib figure.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('the plot needs matplotlib: pip install "whynan[plot]"') from error
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.learning_rates, self.losses, color="0.75", label="loss")
        axes.plot(self.learning_rates, self.smoothed, color="C0", label="smoothed")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="C2", linestyle="--", label=f"suggestion {self.suggestion:.2g}")
        if self.diverged_at is not None:
            axes.axvline(self.diverged_at, color="C3", linestyle=":", label=f"diverged at {self.diverged_at:.2g}")
        axes.legend(frameon=False)
        if path is not None:
            figure.savefig(path)
        return figure


def rising(lowest: float, highest: float, steps: int) -> list[float]:
    """Return learning rates from the lowest to the highest, each the same factor above the one before."""
    if not 0 < lowest < highest:
        raise ValueError(f"lowest, highest: must be above 0 and rise, are {lowest} and {highest}")
    if steps < 3:
        raise ValueError(f"steps: must be at least 3, is {steps}")
    return [lowest * (highest / lowest) ** (index / (steps - 1)) for index in range(steps)]


class Recorder:
    """Take in one loss after the other, and say when to stop."""

    def __init__(self, smoothing: float, stop_factor: float) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing: must be in [0, 1), is {smoothing}")
        self.smoothing, self.stop_factor = smoothing, stop_factor
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.running = 0.0
        self.diverged_at: float | None = None

    def add(self, rate: float, loss: float) -> bool:
        """Return whether to go on."""
        if not math.isfinite(loss):
            self.diverged_at = rate
            return False
        self.running = self.smoothing * self.running + (1 - self.smoothing) * loss
        smoothed = self.running / (1 - self.smoothing ** (len(self.losses) + 1))
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(smoothed)
        best = min(self.smoothed)
        if len(self.losses) > 3 and smoothed > best + (self.stop_factor - 1) * abs(best):
            self.diverged_at = rate
            return False
        return True

    def result(self) -> RangeTest:
        return RangeTest(self.rates, self.losses, self.smoothed, self.diverged_at)


def range_test(
    step: Callable[[float, Any], float],
    batches: Iterable[Any],
    lowest: float,
    highest: float,
    steps: int,
    smoothing: float,
    stop_factor: float,
) -> RangeTest:
    """Call `step(learning rate, batch)`, which trains and returns the loss before it, at rising learning rates."""
    recorder = Recorder(smoothing, stop_factor)
    # Not itertools.cycle, which would keep all batches.
    for rate, batch in zip(rising(lowest, highest, steps), chain.from_iterable(repeat(batches)), strict=False):
        if not recorder.add(rate, float(step(rate, batch))):
            break
    return recorder.result()


def lr_range_test(
    update: Callable[[Any, float, Any], tuple[Any, Any]],
    state: Any,
    batches: Iterable[Any],
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
) -> RangeTest:
    """Train with a learning rate that rises by the same factor each step, and return what the loss did (Smith, 2017).

    It ends where the loss leaves the numbers or grows to `stop_factor` times its best.

        def update(parameters, learning_rate, batch):
            loss, gradients = jax.value_and_grad(loss_of)(parameters, batch)
            return jax.tree.map(lambda p, g: p - learning_rate * g, parameters, gradients), loss

        test = lr_range_test(jax.jit(update), parameters, batches)
        print(test.suggestion)
        test.plot("learning-rate.svg")

    Args:
        update: takes a state, a learning rate and a batch; returns the next state and the loss before it, and changes
            nothing in place.
        state: the first state.
        batches: an iterable that begins anew where it ends.
        lowest, highest: the learning rates at both ends.
        steps: how many, at least 3.
        smoothing: of the loss, in [0, 1).
        stop_factor: how far the loss may grow.
    """

    def step(rate: float, batch: Any) -> float:
        nonlocal state
        state, loss = update(state, rate, batch)
        return float(loss)

    return range_test(step, batches, lowest, highest, steps, smoothing, stop_factor)
