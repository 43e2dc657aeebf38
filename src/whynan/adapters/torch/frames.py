"""The user's own frames on the Python stack."""

import os
from types import FrameType
from typing import Any

from whynan.launch.host import is_user_file
from whynan.trace.graph import Frame

_DEPTH = 150


def user_frames(frame: FrameType | None) -> tuple[Frame, ...]:
    """Return the frames of the user's own code from `frame` outwards, innermost first."""
    found = []
    for _ in range(_DEPTH):
        if frame is None:
            break
        code = frame.f_code
        if is_user_file(code.co_filename):
            found.append(Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def custom_backward_frames(frame: FrameType | None) -> tuple[Frame, ...]:
    """Return the user's frames that run *inside* the backward pass: a custom function's backward, a hook.

    They stand above the frame that started the autograd engine; empty where the engine runs the framework's own code.
    """
    found: list[Frame] = []
    for _ in range(_DEPTH):
        if frame is None or frame.f_code.co_name == "_engine_run_backward":
            return tuple(found)
        code = frame.f_code
        if is_user_file(code.co_filename):
            found.append(Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti))
        frame = frame.f_back
    return ()


def live_user_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost live frame of the user's own code."""
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def user_locals(frame: FrameType | None, depth: int = 4) -> list[dict[str, Any]]:
    """Return copies of the locals of the user's innermost frames, innermost first."""
    found: list[dict[str, Any]] = []
    while frame is not None and len(found) < depth:
        if is_user_file(frame.f_code.co_filename):
            found.append(dict(frame.f_locals))
        frame = frame.f_back
    return found


def is_optimizer_innermost(frame: FrameType | None) -> bool:
    """Whether, from `frame` outwards, an optimizer's code comes before any of the user's own functions."""
    for _ in range(_DEPTH):
        if frame is None:
            return True
        file = frame.f_code.co_filename
        if f"torch{os.sep}optim{os.sep}" in file:
            return True
        if is_user_file(file):
            # An optimizer of the user's own: its step is the update, what its closure calls is not.
            return frame.f_code.co_name in ("step", "_single_tensor_step")
        frame = frame.f_back
    return True
