"""Learning-rate schedules as lists, for frameworks that take lists or nothing at all."""

import math


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
