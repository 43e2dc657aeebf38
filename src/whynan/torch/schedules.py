"""Learning-rate schedules with a warm-up, put together from PyTorch's own, and a range test."""

import copy
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any

import torch
from torch.optim import lr_scheduler

from whynan.formulas import numbers
from whynan.formulas.schedules import RangeTest, Recorder, rising

__all__ = ["RangeTest", "lr_range_test", "warmup_cosine", "warmup_polynomial", "warmup_step"]


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
    numbers.not_negative("min_lr", min_lr)
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
    numbers.positive("power", power)
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


__all__ = ["RangeTest", "lr_range_test"]


def lr_range_test(
    model: Any,
    optimizer: Any,
    loss_of: Callable[[Any, Any], Any],
    batches: Iterable[Any],
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
) -> RangeTest:
    """Train with a learning rate that rises by the same factor each step, and return what the loss did (Smith, 2017).

    It ends where the loss leaves the numbers or grows to `stop_factor` times its best. Model, optimizer and random
    numbers are afterwards as they were, and gradients are None.

        test = lr_range_test(model, optimizer, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), loader)
        print(test.suggestion)
        test.plot("learning-rate.svg")

    Args:
        model: in the mode that it trains in.
        optimizer: of the model's parameters.
        loss_of: takes the model and a batch, returns the loss.
        batches: a loader; it begins anew where it ends.
        lowest, highest: the learning rates at both ends.
        steps: how many, at least 3.
        smoothing: of the loss, in [0, 1).
        stop_factor: how far the loss may grow.
    """
    rates = rising(lowest, highest, steps)
    recorder = Recorder(smoothing, stop_factor)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    try:
        with torch.random.fork_rng():
            endless = chain.from_iterable(repeat(batches))
            for rate, batch in zip(rates, endless, strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(model, batch)
                if not recorder.add(rate, float(loss)):
                    break
                loss.backward()
                optimizer.step()
    finally:
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
    return recorder.result()
