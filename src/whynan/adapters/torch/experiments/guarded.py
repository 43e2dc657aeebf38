"""A mode that guards the operations of one line, above autograd: derivatives are those of the guarded form."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch.experiments.guards.call import Call, Guard, plain_name
from whynan.adapters.torch.frames import op_frame
from whynan.trace.graph import Frame

Place = Callable[[Any], bool]


def at_line(frame: Frame) -> Place:
    """Match calls of which the innermost of the user's frames stands on this line."""

    def is_here(current: Any) -> bool:
        if isinstance(current, Frame):
            return (current.file, current.line) == (frame.file, frame.line)
        return current is not None and current.f_code.co_filename == frame.file and current.f_lineno == frame.line

    return is_here


def in_function(frame: Frame) -> Place:
    """Match calls of which the innermost of the user's frames is this function's, on whatever line."""
    name = (frame.file, frame.code.co_qualname)

    def is_inside(current: Any) -> bool:
        code = current.code if isinstance(current, Frame) else getattr(current, "f_code", None)
        return code is not None and (code.co_filename, code.co_qualname) == name

    return is_inside


def in_class(frame: Frame, file: str) -> Place:
    """Match calls from the methods of the class that the frame's function belongs to."""
    owner = frame.code.co_qualname.rpartition(".")[0]

    def is_inside(current: Any) -> bool:
        return (
            current is not None
            and not isinstance(current, Frame)
            and current.f_code.co_filename == file
            and current.f_code.co_qualname.rpartition(".")[0] == owner
        )

    return is_inside


def anywhere(current: Any) -> bool:
    """Match every call from the user's code."""
    return current is not None


class GuardMode(TorchFunctionMode):  # type: ignore[misc]
    """While entered, calls of the named functions at one place are guarded; `n_applied` counts them."""

    def __init__(self, guards: dict[str, Guard], place: Place, elsewhere: dict[str, Guard] | None = None) -> None:
        super().__init__()
        self.guards = guards
        self.place = place
        self.elsewhere = elsewhere or {}
        self.n_applied = 0
        self.parts: set[str] = set()
        """What of whynan's own parts took an operation's place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, is_in_place = plain_name(func)
        guard = self.elsewhere.get(name) or self.guards.get(name)
        if guard is not None:
            frame = op_frame(sys._getframe(1))
            if (name in self.elsewhere and frame is not None) or self.place(frame):
                result = self._guarded(guard, func, name, is_in_place, args, kwargs)
                if result is not None:
                    self.n_applied += 1
                    self.parts |= {part for part in [getattr(guard, "part", None)] if part}
                    return result
        return func(*args, **kwargs)

    def _guarded(self, guard: Guard, func: Any, name: str, is_in_place: bool, args: Any, kwargs: Any) -> Any:
        plain = {key: value for key, value in kwargs.items() if key != "out"}
        # In place: the guard works on a copy, since what it computes from is about to be overwritten.
        given = (args[0].clone(), *args[1:]) if is_in_place else tuple(args)
        call = Call(_out_of_place(func, name) if is_in_place else func, name, given, plain)
        result = guard(call)
        if result is None or not is_in_place:
            return result
        return args[0].copy_(result)


def _out_of_place(func: Any, name: str) -> Any:
    return getattr(torch, name, None) or getattr(torch.Tensor, name, func)
