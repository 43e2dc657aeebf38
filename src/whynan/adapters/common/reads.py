"""Lines of the script that read a number and speak of a loss: a metric may be NaN for good reasons."""

import linecache
import re
from types import FrameType

from whynan.launch.host import is_user_file

_LOSS = re.compile(r"(?<![a-z])(loss|losses|cost|nll|objective|elbo)(?![a-z])", re.IGNORECASE)


def speaks_of_loss(frame: FrameType) -> bool:
    """Return whether the frame's present line is the script's and speaks of a loss."""
    file = frame.f_code.co_filename
    return is_user_file(file) and bool(_LOSS.search(linecache.getline(file, frame.f_lineno)))
