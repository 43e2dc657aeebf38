"""Losses that an eager loop reads as a number, `float(loss)` or `loss.numpy()`, and trains nothing with.

What counts is a line of the user's own that speaks of a loss: a metric may be NaN for good reasons.
"""

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorflow.python.framework import ops

from whynan.adapters.common.reads import is_bad_loss, speaks_of_loss

if TYPE_CHECKING:
    from whynan.adapters.tensorflow.watch import Watch


def install(watch: "Watch") -> None:
    """Look at the numbers that eager tensors are read as."""
    for name in ("__float__", "numpy"):
        watch.patches.replace(ops._EagerTensorBase, name, lambda original: _reading(original, watch))


def _reading(original: Any, watch: "Watch") -> Any:
    def read(tensor: Any) -> Any:
        value = original(tensor)
        if isinstance(value, (float, np.floating)) and _is_of_interest(float(value), watch, sys._getframe(1)):
            if watch.attempt is not None:
                watch.attempt.on_loss(tensor)
            else:
                watch.on_validation(None)
        return value

    read.__doc__, read.__wrapped__ = original.__doc__, original  # type: ignore[attr-defined]
    return read


def _is_of_interest(value: float, watch: "Watch", frame: FrameType) -> bool:
    """Whether a number that was read is a loss to be looked at: in a replay each, in the run one that is not finite."""
    if watch.attempt is not None:
        return watch.attempt.stops_at_loss and speaks_of_loss(frame)
    return watch.is_enabled and not watch.depth and is_bad_loss(value, frame)
