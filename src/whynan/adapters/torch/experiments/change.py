"""One change to the replayed step: what an attempt is entered with; a patch as text; a derivative by autograd."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any, Literal

import torch

from whynan.trace import Frame

Scope = Literal["step", "window", "start"]
"""step: the failing step alone; window: from a snapshot before the growth on; start: from the first step on."""


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
