"""Whose the script's loops are, where a program imports more than one framework.

A training script may load its data with another framework, or import one through a library: TensorBoard's writer brings
TensorFlow, Keras on PyTorch does, a network written in NumPy takes its digits from `keras.datasets`. Imports decide at
first, what takes the first gradient decides for good.
"""

import linecache
import re
import sys
from types import FrameType

from whynan.launch.host import is_user_file, user_codes

_TRAINS = {
    "torch": re.compile(r"\.backward\(|autograd|\boptim\b|Trainer\(|\bgrad_and_value\b|torch\.func\b"),
    "tensorflow": re.compile(r"GradientTape|(?<!re)\.compile\("),
    "jax": re.compile(r"\bgrad\(|value_and_grad|(?<!re)\.compile\("),
    "mindspore": re.compile(r"value_and_grad|GradOperation|TrainOneStep|\bModel\("),
}
"""What a script that trains with a framework calls."""


class Ownership:
    """The framework whose adapter answers the loops, and how it came to that."""

    def __init__(self) -> None:
        self.owner: str | None = None
        self._is_users_choice = False

    def falls_to(self, framework: str) -> bool:
        """Whether the loops go over to a framework that is being imported now."""
        is_users_choice = _is_imported_by_user()
        if self.owner is None:
            decided = True
        elif self.owner == "numpy":
            decided = _speaks_of_training(framework)
        else:
            # What the program itself imports comes before what a library of its brings along.
            decided = is_users_choice and not self._is_users_choice
        if decided:
            self._is_users_choice = is_users_choice
        return decided


def _is_imported_by_user() -> bool:
    """Whether the import under way stands in the user's own code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            return True
        if not file.startswith("<frozen importlib") and "whynan" not in frame.f_globals.get("__name__", "").split("."):
            return False
        frame = frame.f_back
    return False


def _speaks_of_training(framework: str) -> bool:
    """Whether the user's files, as far as they are known, call anything that trains with the framework."""
    pattern = _TRAINS.get(framework)
    return pattern is None or any(pattern.search("".join(linecache.getlines(file))) for file in user_codes)
