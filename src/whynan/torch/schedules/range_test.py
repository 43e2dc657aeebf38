"""The learning-rate range test."""

import copy
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any

import torch

from whynan.formulas.range_test import RangeTest, Recorder, rising

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
