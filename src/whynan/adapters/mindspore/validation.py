"""Losses that nothing is trained with: of `Model.eval`'s network, and those that a loop of the script's own reads."""

import functools
import math
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import nn

from whynan.adapters.common.loops import is_bad_loss, speaks_of_loss
from whynan.adapters.mindspore.arrays import array_of, is_floating, tensors_in
from whynan.adapters.mindspore.closure import CellClosure

if TYPE_CHECKING:
    from whynan.adapters.mindspore.watch import Watch

_READS = ("__float__", "asnumpy", "item", "__str__", "__format__")


def install(watch: "Watch") -> None:
    """Look at the loss of each validation batch, and at the numbers that tensors are read as."""
    watch.patches.replace(nn.WithEvalCell, "__call__", lambda original: _evaluating(original, watch))
    for name in _READS:
        watch.patches.replace(ms.Tensor, name, lambda original: _reading(original, watch))


def _evaluating(original: Any, watch: "Watch") -> Any:
    @functools.wraps(original)
    def __call__(cell: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        result = original(cell, *args, **kwargs)
        loss = next((t for t in tensors_in(result) if is_floating(t)), None)
        if loss is None or loss.size != 1 or (watch.attempt is None and not watch.is_enabled):
            return result
        if watch.attempt is not None:
            watch.attempt.on_validation(loss)
        else:
            watch.n_validated += 1
            value = float(array_of(loss).sum())
            if not math.isfinite(value):
                watch.on_validation(value, CellClosure(cell, args, "validation"))
        return result

    return __call__


def _reading(original: Any, watch: "Watch") -> Any:
    @functools.wraps(original)
    def read(tensor: Any, *args: Any) -> Any:
        if (watch.attempt is not None or watch.is_enabled) and not watch.depth and tensor.size == 1:
            _look(tensor, watch, sys._getframe(1))
        return original(tensor, *args)

    return read


def _look(tensor: Any, watch: "Watch", frame: FrameType) -> None:
    # The line first: to look at the number is to read the tensor, from a line of this file.
    if not is_floating(tensor) or isinstance(tensor, ms.Parameter) or not speaks_of_loss(frame):
        return
    if watch.attempt is not None:
        if watch.attempt.is_validation:
            watch.attempt.on_validation(tensor)
        return
    value = float(array_of(tensor).sum())
    if is_bad_loss(value, frame):
        watch.on_validation(value, None)
