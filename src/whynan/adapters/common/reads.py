"""Lines of the script that read a number and speak of a loss: a metric may be NaN for good reasons."""

import linecache
import math
import re
from types import FrameType

from whynan.launch.host import is_user_file

_LOSS = re.compile(r"(?<![a-z])(loss|losses|cost|nll|objective|elbo)(?![a-z])", re.IGNORECASE)
_BEST = re.compile(r"best|lowest|min|prev|last", re.IGNORECASE)
"""A loss to compare with begins as an infinity."""


def speaks_of_loss(frame: FrameType) -> bool:
    """Return whether the frame's present line is the script's and speaks of a loss."""
    return is_user_file(frame.f_code.co_filename) and bool(_LOSS.search(_line(frame)))


def is_bad_loss(value: float, frame: FrameType) -> bool:
    """Return whether a number that the frame's present line reads is a loss that has gone wrong."""
    if math.isfinite(value) or not speaks_of_loss(frame):
        return False
    return math.isnan(value) or not _BEST.search(_line(frame))


def _line(frame: FrameType) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno)
