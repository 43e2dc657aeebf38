"""Modes above autograd: the operations of one line guarded, or an operation or the step in a wider dtype."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch.experiments.guards.parts import Call, Guard, plain_name
from whynan.adapters.torch.frames import op_frame
from whynan.trace import Frame

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


_HALF = (torch.float16, torch.bfloat16)
_CASTS = {"half": torch.float32, "bfloat16": torch.float32}


class WiderOp(TorchFunctionMode):  # type: ignore[misc]
    """While entered, the operations of one line compute in a wider dtype; their result stays in it."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.n_applied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import sys

        kwargs = kwargs or {}
        if not self.place(op_frame(sys._getframe(1))):
            return func(*args, **kwargs)
        wider = [0]

        def widened(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                wider[0] += 1
                return value.to(torch.float32 if value.dtype in _HALF else torch.float64)
            if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
                return type(value)(widened(item) for item in value)
            return value

        name = str(getattr(func, "__name__", ""))
        if name.startswith("__get") or name.endswith("_") or name in ("backward", "to", "half", "float"):
            return func(*args, **kwargs)
        with _no_autocast():
            result = func(*widened(tuple(args)), **{key: widened(value) for key, value in kwargs.items()})
        self.n_applied += bool(wider[0])
        return result


def _no_autocast() -> Any:
    return torch.amp.autocast_mode.autocast("cpu", enabled=False)


class WholeStep:
    """While entered, half precision is single precision: parameters, casts, autocast, tensors that are made."""

    def __init__(self, parameters: list[Any], buffers: list[Any], optimizers: list[Any]) -> None:
        self.tensors = [t for t in (*parameters, *buffers) if t.dtype in _HALF]
        self.optimizers = optimizers
        self._mode = _Upcast()
        self._saved: list[tuple[Any, Any, Any]] = []
        self._states: list[tuple[dict[str, Any], str, Any]] = []
        self._enter = torch.autocast.__enter__
        self.n_applied = 0

    def __enter__(self) -> None:
        for tensor in self.tensors:
            grad = tensor.grad if tensor.is_leaf else None
            self._saved.append((tensor, tensor.data, grad))
            if grad is not None:
                tensor.grad = None
            tensor.data = tensor.data.float()
            if grad is not None:
                tensor.grad = grad.float()
        for optimizer in self.optimizers:
            for values in optimizer.state.values():
                for key, value in values.items():
                    if isinstance(value, torch.Tensor) and value.dtype in _HALF:
                        self._states.append((values, key, value))
                        values[key] = value.float()
        self.n_applied = len(self._saved)
        original = self._enter
        owner = self

        def enter(context: Any) -> Any:
            owner.n_applied += bool(context._enabled)
            context._enabled = False
            return original(context)

        torch.autocast.__enter__ = enter
        self._mode.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._mode.__exit__(None, None, None)
        torch.autocast.__enter__ = self._enter
        for tensor, data, grad in self._saved:
            tensor.grad = None
            tensor.data = data
            tensor.grad = grad
        for values, key, value in self._states:
            values[key] = value
        self.n_applied += self._mode.n_applied
        self._saved, self._states = [], []


class _Upcast(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.n_applied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        if name in _CASTS and args and isinstance(args[0], torch.Tensor):
            self.n_applied += 1
            return args[0].float()
        return func(*self._wide(tuple(args)), **{key: self._wide(value) for key, value in kwargs.items()})

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            if value in _HALF:
                self.n_applied += 1
                return torch.float32
            return value
        if isinstance(value, torch.Tensor) and value.dtype in _HALF:
            self.n_applied += 1
            return value.float()
        if type(value) in (list, tuple):
            return type(value)(self._wide(item) for item in value)
        return value
