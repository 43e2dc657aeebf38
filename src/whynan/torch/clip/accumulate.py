"""Gradient accumulation."""

from typing import Any

import torch
from torch import Tensor

from whynan.torch.clip.norm import gradients_of


class Accumulator:
    """Accumulate gradients over several batches, scaled as one batch of them all would be.

    Dividing each loss by the number of batches is wrong where they differ in size: at the end of an epoch, with padded
    sequences,
    with ignored targets. Here each loss is a sum over `count` items, and the gradients are divided once, by all of
    them.

        accumulate = Accumulator(model.parameters())
        for batch in batches:
            loss = cross_entropy(model(batch.x), batch.y, reduction="sum")
            accumulate.backward(loss, count=int((batch.y != -100).sum()))
        accumulate.finish()     # gradients of the mean over all items; 0 where there were none
        optimizer.step()

    Args:
        parameters: what `model.parameters()` gives.
    """

    def __init__(self, parameters: Any) -> None:
        self.parameters = list(parameters)
        self.count = 0.0

    def backward(self, loss: Tensor, count: float) -> None:
        """Add the gradient of a loss that is a sum over `count` items, which may be 0."""
        if count < 0:
            raise ValueError(f"count: must be at least 0, is {count}")
        self.count += float(count)
        loss.backward()

    @torch.no_grad()
    def finish(self) -> float:
        """Divide the gradients by the number of items, which is returned, and begin anew."""
        count, self.count = self.count, 0.0
        gradients = gradients_of(self.parameters)
        if gradients:
            torch._foreach_div_(gradients, max(count, 1.0))
        return count
