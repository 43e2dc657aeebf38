"""Numbers that the script reads out of tensors: whose line it is, what it is called there, whether it is a loss."""

import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from whynan.adapters.torch.frames import live_user_frame
from whynan.launch.host import is_user_file, whynan_frame

_LOSS_WORDS = (
    "loss",
    "nll",
    "criterion",
    "cost",
    "objective",
    "elbo",
    "perplex",
    "ppl",
    "entropy",
    "energy",
    "bce",
    "mse",
)


def with_warnings_of(frame: FrameType, original: Any, tensor: Any) -> Any:
    """Call `original(tensor)`; a warning that it gives is given for the line of `frame`, which called it.

    PyTorch warns once about a number read from a tensor that requires grad, and takes the innermost Python frame for
    the culprit. The filters stay untouched: a change would make the user's other once-only warnings appear again.
    """
    caught: list[Any] = []
    show = warnings._showwarnmsg  # type: ignore[attr-defined]
    warnings._showwarnmsg = caught.append  # type: ignore[attr-defined]
    try:
        value = original(tensor)
    finally:
        warnings._showwarnmsg = show  # type: ignore[attr-defined]
    for warning in caught:
        warnings.warn_explicit(
            warning.message,
            warning.category,
            frame.f_code.co_filename,
            frame.f_lineno,
            frame.f_globals.get("__name__", "__main__"),
            frame.f_globals.setdefault("__warningregistry__", {}),
        )
    return value


def reading_frame(frame: FrameType | None) -> FrameType | None:
    """Return the user's frame that reads a number; None where it is whynan that does."""
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        if whynan_frame(frame.f_code) and frame.f_code.co_name != "read":
            return None
        frame = frame.f_back
    return frame


def name_of_tensor(tensor: Any, frame: FrameType | None) -> str | None:
    """Return what the user's innermost frames call a tensor: a variable, or a key of a dict.

    Printing reads a detached tensor: the same memory under the name of another object.
    """
    return _name_where(lambda value: value is tensor, frame) or _name_where(_same_memory(tensor), frame)


def _same_memory(tensor: Any) -> Callable[[Any], bool]:
    place = _place(tensor)
    return lambda value: place is not None and isinstance(value, type(tensor)) and _place(value) == place


def _place(tensor: Any) -> int | None:
    try:
        return int(tensor.data_ptr()) or None if tensor.numel() == 1 else None
    except (RuntimeError, NotImplementedError):  # no memory of its own: a transform's wrapper, a sparse one
        return None


def _name_where(is_it: Callable[[Any], bool], frame: FrameType | None) -> str | None:
    from whynan.snapshot.python_state import frame_values

    while frame is not None:
        frame = live_user_frame(frame)
        if frame is None:
            break
        for name, value in (frame_values(frame) or {}).items():
            if is_it(value):
                return name
            if isinstance(value, dict) and len(value) <= 64:
                for key, item in value.items():
                    if is_it(item):
                        return str(key)
        frame = frame.f_back
    return None


def sounds_like_loss(text: str) -> bool:
    """Whether a name or a line of source speaks of a loss."""
    lowered = text.lower()
    return any(word in lowered for word in _LOSS_WORDS)
