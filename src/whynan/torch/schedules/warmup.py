"""A warm-up and then a decay: `LinearLR` before PyTorch's own schedules."""

from typing import Any

from torch.optim import lr_scheduler

from whynan.formulas import checks


def before(optimizer: Any, after: Any, warmup_steps: int, start_factor: float) -> Any:
    """Return `after` with a linear warm-up of `warmup_steps` steps before it."""
    if not warmup_steps:
        return after
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=start_factor, total_iters=warmup_steps)
    return lr_scheduler.SequentialLR(optimizer, [warmup, after], milestones=[warmup_steps])


def check(warmup_steps: int, total_steps: int | None, start_factor: float) -> None:
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps: must be at least 0, is {warmup_steps}")
    if total_steps is not None and total_steps <= warmup_steps:
        raise ValueError(f"total_steps: must be above warmup_steps={warmup_steps}, is {total_steps}")
    if not 0 < start_factor <= 1:
        raise ValueError(f"start_factor: must be in (0, 1], is {start_factor}")


def warmup_cosine(
    optimizer: Any, warmup_steps: int, total_steps: int, min_lr: float = 0.0, start_factor: float = 0.01
) -> Any:
    """Linear warm-up, then half a cosine down to `min_lr`. Call `.step()` after each `optimizer.step()`.

    Args:
        optimizer: its learning rate is the highest.
        warmup_steps: steps from `start_factor` times the learning rate to all of it.
        total_steps: all steps, the warm-up included; keep to it, a cosine rises again afterwards.
        min_lr: the learning rate at the end.
        start_factor: where the warm-up starts, in (0, 1].
    """
    check(warmup_steps, total_steps, start_factor)
    checks.not_negative("min_lr", min_lr)
    after = lr_scheduler.CosineAnnealingLR(optimizer, total_steps - warmup_steps, eta_min=min_lr)
    return before(optimizer, after, warmup_steps, start_factor)


def warmup_polynomial(
    optimizer: Any, warmup_steps: int, total_steps: int, power: float = 1.0, start_factor: float = 0.01
) -> Any:
    """Linear warm-up, then (1 - progress)^power down to 0. Call `.step()` after each `optimizer.step()`.

    Args:
        optimizer: its learning rate is the highest.
        warmup_steps: steps from `start_factor` times the learning rate to all of it.
        total_steps: all steps, the warm-up included; the learning rate stays 0 afterwards.
        power: of the polynomial, above 0; 1 is a straight line.
        start_factor: where the warm-up starts, in (0, 1].
    """
    check(warmup_steps, total_steps, start_factor)
    checks.positive("power", power)
    after = lr_scheduler.PolynomialLR(optimizer, total_steps - warmup_steps, power=power)
    return before(optimizer, after, warmup_steps, start_factor)


def warmup_step(
    optimizer: Any, warmup_steps: int, milestones: list[int], gamma: float = 0.1, start_factor: float = 0.01
) -> Any:
    """Linear warm-up, then a factor `gamma` at each milestone. Call `.step()` after each `optimizer.step()`.

    Args:
        optimizer: its learning rate is the highest.
        warmup_steps: steps from `start_factor` times the learning rate to all of it.
        milestones: steps, counted from the start, upwards, after the warm-up.
        gamma: the factor.
        start_factor: where the warm-up starts, in (0, 1].
    """
    check(warmup_steps, None, start_factor)
    if sorted(milestones) != list(milestones) or any(step <= warmup_steps for step in milestones):
        raise ValueError(
            f"milestones: must rise and lie after the warm-up of {warmup_steps} steps, are {list(milestones)}"
        )
    after = lr_scheduler.MultiStepLR(optimizer, [step - warmup_steps for step in milestones], gamma=gamma)
    return before(optimizer, after, warmup_steps, start_factor)
