"""Learning-rate schedules with a warm-up for MindSpore, as lists of one number a step, which its optimizers take, and a
range test.
"""

from collections.abc import Callable, Iterable
from typing import Any

import mindspore
from mindspore import ops

from whynan.formulas.schedules import RangeTest, range_test, warmup_cosine, warmup_polynomial, warmup_step

__all__ = ["RangeTest", "lr_range_test", "warmup_cosine", "warmup_polynomial", "warmup_step"]


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

    It ends where the loss leaves the numbers or grows to `stop_factor` times its best. Model and optimizer are
    afterwards as they were.

        test = lr_range_test(model, optimizer, lambda model, batch: loss(model(batch[0]), batch[1]), dataset)
        print(test.suggestion)
        test.plot("learning-rate.svg")

    Args:
        model: a cell.
        optimizer: of the model's parameters, with a number for a learning rate.
        loss_of: takes the model and a batch, returns the loss.
        batches: a data set; it begins anew where it ends.
        lowest, highest: the learning rates at both ends.
        steps: how many, at least 3.
        smoothing: of the loss, in [0, 1).
        stop_factor: how far the loss may grow.
    """
    gradient = mindspore.value_and_grad(lambda batch: loss_of(model, batch), None, optimizer.parameters)
    kept = [
        (p, p.asnumpy().copy())
        for p in {id(p): p for p in [*model.get_parameters(), *optimizer.get_parameters()]}.values()
    ]

    def step(rate: float, batch: Any) -> float:
        ops.assign(optimizer.learning_rate, mindspore.Tensor(rate, mindspore.float32))
        loss, gradients = gradient(batch)
        optimizer(gradients)
        return float(loss)

    try:
        return range_test(step, batches, lowest, highest, steps, smoothing, stop_factor)
    finally:
        for parameter, value in kept:
            parameter.set_data(mindspore.Tensor(value))
