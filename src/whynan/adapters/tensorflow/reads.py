"""Losses that an eager loop reads as a number, `float(loss)` or `loss.numpy()`, and trains nothing with.

What counts is a line of the user's own that speaks of a loss: a metric may be NaN for good reasons.
"""

import math
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorflow.python.framework import ops

from whynan.adapters.common.reads import speaks_of_loss

if TYPE_CHECKING:
    from whynan.adapters.tensorflow.watch import Watch

_BEST = re.compile(r"best|lowest|min|prev|last", re.IGNORECASE)
"""A loss to compare with begins as an infinity."""


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
    if not watch.is_enabled or watch.depth or math.isfinite(value) or not speaks_of_loss(frame):
        return False
    return math.isnan(value) or not _BEST.search(_line(frame))


def _speaks_of_loss(frame: FrameType) -> bool:
    return is_user_file(frame.f_code.co_filename) and bool(_LOSS.search(_line(frame)))


def _line(frame: FrameType) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno)
