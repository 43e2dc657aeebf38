"""Where an operation stands: the user's line, the line that asked for a number, a library's own code."""

import linecache
import os
from typing import Any

from whynan.check.graph import Place
from whynan.launch.host import is_user_file


def place_of(frame: Any) -> Place:
    """Return a frame's line as a place, with its source text."""
    return Place(frame.file, frame.line, frame.function, linecache.getline(frame.file, frame.line).strip())


def asking_place(frame: Any) -> Place | None:
    """Return the line that reads a number: the user's or a library's, and not the framework's own."""
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file) or ("site-packages" in file and _TORCH not in file):
            text = linecache.getline(file, frame.f_lineno).strip()
            return Place(file, frame.f_lineno, frame.f_code.co_name, text)
        frame = frame.f_back
    return None


def is_library(frame: Any) -> bool:
    """Whether an operation is the doing of an installed library on top of the framework, and not of the user's code."""
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            return False
        if _PARAMETRIZATIONS in file or _KERAS_LAYERS in file:
            return True
        if "site-packages" in file and _TORCH not in file and _KERAS not in file:
            return True
        frame = frame.f_back
    return False


_TORCH = f"site-packages{os.sep}torch{os.sep}"
_PARAMETRIZATIONS = f"{_TORCH}nn{os.sep}utils{os.sep}"
"""Spectral and weight normalisation: the library's own arithmetic, with its own care."""
_KERAS = f"site-packages{os.sep}keras{os.sep}"
"""Its operations are the framework's own under another name."""
_KERAS_LAYERS = f"{_KERAS}src{os.sep}layers{os.sep}"
