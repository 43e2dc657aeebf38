"""One change to the replayed step: what an attempt is entered with; a patch as text; operations guarded or widened."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch.experiments.guards import Call, Guard, plain_name
from whynan.adapters.torch.frames import op_frame
from whynan.trace import Frame

Scope = Literal["step", "window", "start"]
"""step: the failing step alone; window: from a snapshot before the growth on; start: from the first step on."""
Place = Callable[[Any], bool]


@dataclass
class Change:
    """A remedy as it is tried: `mode` is entered for the attempt, `names` are bound and `drawn` is drawn otherwise."""

    slug: str
    words: str
    mode: Any = None
    names: dict[str, Any] = field(default_factory=dict)
    drawn: list[Any] | None = None
    scope: Scope = "step"
    patch: str | None = None
    n_applied: Callable[[], int] | None = None
    number: int = 0
    """Which of its remedy's changes it is."""

    def count(self) -> int | None:
        """Return how often the change took hold, where it counts that."""
        if self.n_applied is not None:
            return self.n_applied()
        counted = getattr(self.mode, "n_applied", None)
        return None if counted is None else int(counted)


@dataclass
class Around:
    """A mode that works around optimizer steps (or, with updates by hand, behind backward passes)."""

    watch: Any
    before: Callable[[Any, int], None]
    after: Callable[[Any, int], None] = lambda optimizer, step: None
    on_start: Callable[[], None] = lambda: None
    on_gradients: Callable[[int], None] | None = None
    on_returned: Callable[[Any], Any] | None = None
    """What becomes of the gradients that `torch.autograd.grad` returns."""
    n_applied: int = 0
    parts: set[str] = field(default_factory=set)
    """What of whynan's own parts was used."""

    def __enter__(self) -> None:
        self.on_start()
        self.n_applied = 0
        self.watch.around_step = self

    def __exit__(self, *exception: object) -> None:
        self.watch.around_step = None

    def enter_step(self, optimizer: Any) -> None:
        self.before(optimizer, self.n_applied)

    def leave_step(self, optimizer: Any) -> None:
        self.after(optimizer, self.n_applied)
        self.n_applied += 1


class PatchedFunction:
    """While entered, the functions made of one code object run another."""

    def __init__(self, old: CodeType, new: CodeType) -> None:
        self.old = old
        self.new = new
        self.functions: list[FunctionType] = []

    @property
    def n_applied(self) -> int:
        return len(self.functions)

    def __enter__(self) -> None:
        self.functions = [f for f in gc.get_referrers(self.old) if isinstance(f, FunctionType)]
        for function in self.functions:
            function.__code__ = self.new

    def __exit__(self, *exception: object) -> None:
        for function in self.functions:
            function.__code__ = self.old


def patched_function(source: str, frame: Frame, running: list[Any]) -> PatchedFunction | None:
    """Return the frame's function from another source; None where that is not possible.

    It is not where the function is running, because the loop itself stands in it, or where the patch changes what it
    closes over.
    """
    if frame.function == "<module>" or any(code is frame.code for code in running):
        return None
    try:
        module = compile(source, frame.file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    new = _like(module, frame.code)
    if new is None or new.co_freevars != frame.code.co_freevars:
        return None
    return PatchedFunction(frame.code, new)


def _like(code: CodeType, wanted: CodeType) -> CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if (constant.co_qualname, constant.co_firstlineno) == (wanted.co_qualname, wanted.co_firstlineno):
                return constant
            found = _like(constant, wanted)
            if found is not None:
                return found
    return None


class AutogradsOwn:
    """While entered, `apply` of one autograd function runs its forward under autograd, which derives it."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.n_applied = 0

    def __enter__(self) -> None:
        function, owner = self.function, self

        def apply(*args: Any) -> Any:
            owner.n_applied += 1
            if hasattr(function, "setup_context") and "setup_context" in vars(function):
                return function.forward(*args)
            return function.forward(_Context(args), *args)

        function.apply = staticmethod(apply)

    def __exit__(self, *exception: object) -> None:
        del self.function.apply


class _Context:
    """Takes what a forward saves for its backward, which is not going to run."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class FiniteBackward:
    """While entered, the non-finite values that one autograd function's backward returns are 0."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.original = function.__dict__.get("backward")
        self.n_applied = 0

    def __enter__(self) -> None:
        original = self.original.__func__ if isinstance(self.original, staticmethod) else self.original

        def backward(ctx: Any, *grads: Any) -> Any:
            made = original(ctx, *grads)
            self.n_applied += 1
            if isinstance(made, tuple):
                return tuple(self._finite(value) for value in made)
            return self._finite(made)

        self.function.backward = staticmethod(backward)

    def __exit__(self, *exception: object) -> None:
        self.function.backward = self.original

    def _finite(self, value: Any) -> Any:
        return torch.nan_to_num(value, 0.0, 0.0, 0.0) if isinstance(value, torch.Tensor) else value


def function_called(name: str) -> Any:
    """Return the user's autograd function of that name; None where there is none."""
    return next((cls for cls in torch.autograd.Function.__subclasses__() if cls.__name__ == name), None)


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
