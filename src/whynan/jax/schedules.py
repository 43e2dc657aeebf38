"""Learning-rate schedules with a warm-up: those of Optax, under the names of `whynan.torch.schedules`.

Each returns a function of the step, which Optax's optimizers take for a learning rate.
"""

from typing import Any

import optax

from whynan.formulas.schedules import RangeTest, lr_range_test

__all__ = ["RangeTest", "lr_range_test", "warmup_cosine", "warmup_polynomial", "warmup_step"]


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, min_lr: float = 0.0, start_factor: float = 0.01
) -> Any:
    """Linear warm-up to `peak`, then half a cosine down to `min_lr` (`optax.warmup_cosine_decay_schedule`)."""
    return optax.warmup_cosine_decay_schedule(peak * start_factor, peak, warmup_steps, total_steps, end_value=min_lr)


def warmup_polynomial(
    peak: float, warmup_steps: int, total_steps: int, power: float = 1.0, start_factor: float = 0.01
) -> Any:
    """Linear warm-up to `peak`, then (1 - progress)^power down to 0 (`optax.polynomial_schedule`)."""
    after = optax.polynomial_schedule(peak, 0.0, power, total_steps - warmup_steps)
    return before(after, peak, warmup_steps, start_factor)


def warmup_step(
    peak: float, warmup_steps: int, milestones: list[int], gamma: float = 0.1, start_factor: float = 0.01
) -> Any:
    """Linear warm-up to `peak`, then a factor `gamma` at each milestone (`optax.piecewise_constant_schedule`)."""
    after = optax.piecewise_constant_schedule(peak, {step - warmup_steps: gamma for step in milestones})
    return before(after, peak, warmup_steps, start_factor)


def before(after: Any, peak: float, warmup_steps: int, start_factor: float) -> Any:
    warmup = optax.linear_schedule(peak * start_factor, peak, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])
