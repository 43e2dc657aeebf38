"""The user's frames, and the numbers that the script reads out of tensors there."""

import functools
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from whynan.launch.host import is_user_file, whynan_frame
from whynan.trace import Frame

_DEPTH = 150
STEP_PREFIX = "<whynan step: "
"""How the files are called in which the steps of trainers run: frames of ours that stand for a loop, not for lines."""


@dataclass(frozen=True)
class Running:
    """A layer or a loss of a trainer's package that is running, and the user's line that made it."""

    path: str | None
    kind: str | None
    made: Frame | None


RUNNING: list[Running] = []
"""Innermost last; kept by trainers whose layers are made by the user and written by a package."""


def _maker() -> Frame | None:
    return next((running.made for running in reversed(RUNNING) if running.made is not None), None)


def user_frames(frame: FrameType | None) -> tuple[Frame, ...]:
    """Return the frames of the user's own code from `frame` outwards, innermost first.

    Where a trainer calls a model that is none of the user's, the package's line that makes the operation comes first.
    """
    found: list[Frame] = []
    start = frame
    for _ in range(_DEPTH):
        if frame is None:
            break
        code = frame.f_code
        if code.co_filename.startswith(STEP_PREFIX):
            inside = op_frame(start) if not found else None
            if isinstance(inside, Frame):
                found.append(inside)
            elif inside is not None and inside is not frame:
                found.append(_frame_of(inside))
        elif is_user_file(code.co_filename):
            found.append(_frame_of(frame))
        frame = frame.f_back
    return tuple(found)


def _frame_of(frame: FrameType) -> Frame:
    return Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, frame.f_code, frame.f_lasti)


def op_frame(frame: FrameType | None) -> FrameType | Frame | None:
    """Return the frame whose line an operation is: the user's innermost, or the package's inside a trainer's step.

    Of a layer that the package wrote it is the user's line that made it.
    """
    package: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(STEP_PREFIX):
            return package or _maker() or frame
        if is_user_file(file):
            return frame
        if package is None and not _is_plumbing(file):
            package = frame
        frame = frame.f_back
    return None


@functools.cache
def _is_plumbing(file: str) -> bool:
    """Whether a file belongs to what carries a training step: the framework, a trainer, Python itself, whynan."""
    place = file.replace(os.sep, "/")
    return file.startswith("<") or place.startswith(_OURSELVES) or any(part in place for part in _PLUMBING)


_OURSELVES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))).replace(os.sep, "/")
_STANDARD = f"/python{sys.version_info[0]}.{sys.version_info[1]}/"
_PLUMBING = (
    "/torch/", "/lightning/", "/pytorch_lightning/", "/lightning_fabric/", "/accelerate/", "/ignite/", "/mmengine/",
    "/keras/", "/transformers/trainer", "/transformers/utils/", "/torchmetrics/",
    f"{_STANDARD}contextlib.py", f"{_STANDARD}functools.py",
)  # fmt: skip


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
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


_OPTIMIZERS = tuple(
    part.replace("/", os.sep)
    for part in ("torch/optim/", "keras/src/optimizers/", "keras/src/backend/torch/optimizers/")
)


def is_optimizer_innermost(frame: FrameType | None) -> bool:
    """Whether, from `frame` outwards, an optimizer's code comes before any of the user's own functions."""
    for _ in range(_DEPTH):
        if frame is None:
            return True
        file = frame.f_code.co_filename
        if any(part in file for part in _OPTIMIZERS):
            return True
        if f"{os.sep}lightning{os.sep}" in file or f"{os.sep}pytorch_lightning{os.sep}" in file:
            return False  # the closure that it hands to its optimizers
        if is_user_file(file):
            # An optimizer of the user's own: its step is the update, what its closure calls is not.
            return frame.f_code.co_name in ("step", "_single_tensor_step")
        frame = frame.f_back
    return True


class ModuleStack:
    """Follow the modules' forward calls by the global hooks, while entered."""

    def __init__(self) -> None:
        self.paths: dict[int, str] = {}
        self.stack: list[Any] = []
        self._handles: list[Any] = []

    def name_from(self, roots: dict[str, Any]) -> None:
        """Give every submodule of the root modules its dotted path inside its root."""
        for root in roots.values():
            for path, module in root.named_modules():
                if len(path) >= len(self.paths.get(id(module), "")):
                    self.paths[id(module)] = path

    def enter(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._push),
            register_module_forward_hook(self._pop, always_call=True),
        ]

    def leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self.stack = [], []

    def _push(self, module: Any, args: Any) -> None:
        self.stack.append(module)

    def _pop(self, module: Any, args: Any, output: Any) -> None:
        while self.stack and self.stack.pop() is not module:
            pass

    def current(self) -> tuple[str | None, str | None]:
        """Return the dotted path and the class name of the innermost module that runs now."""
        if RUNNING:
            path = next((running.path for running in reversed(RUNNING) if running.path is not None), None)
            return path, next((running.kind for running in reversed(RUNNING) if running.kind is not None), None)
        if not self.stack:
            return None, None
        module = self.stack[-1]
        return self.paths.get(id(module)) or None, type(module).__name__

    def custom_function(self, stack: tuple[Frame, ...]) -> str | None:
        """Return the name of the user's autograd function whose forward is the innermost frame, if one is."""
        if not stack or stack[0].function != "forward":
            return None
        owner = stack[0].code.co_qualname.rpartition(".")[0].rpartition(".")[2]
        return owner if owner in _functions() else None


def _functions() -> set[str]:
    return {cls.__name__ for cls in torch.autograd.Function.__subclasses__()}


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
    from whynan.snapshot import frame_values

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
    lowered = text.lower()
    return any(word in lowered for word in _LOSS_WORDS)
