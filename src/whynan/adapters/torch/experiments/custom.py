"""fix-custom-op: a hand-written derivative replaced by autograd's own of the same forward formula."""

from typing import Any

import torch


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
