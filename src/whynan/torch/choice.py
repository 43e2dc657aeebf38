"""Both ways in one compiled step: PyTorch's plain kernels where a look at a few sums says that they are exact, else the
formula.

`torch.compile` takes both branches in, `torch.cond` runs one. It is done on the CPU only: an accelerator would have to
be waited for, and there the formula is fused into the kernels around it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from whynan.torch.backend import NAMES
from whynan.torch.fast import WHOLE


class Plain(NamedTuple):
    """The plain form of a function of some arrays, and when it may be used. `static` is what is no array."""

    look: Callable[..., tuple[Any, ...]]
    """(arrays, static) -> whether the plain form is exact, as an array of one boolean, and what it computes with."""
    value: Callable[..., Any]
    """(arrays, static, *what look found) -> the value."""
    slopes: Callable[..., tuple[Any, ...]]
    """(gradient, arrays, static, *what look found) -> the gradient of each array."""
    formula: Callable[..., Any]
    """(arrays, static) -> the value where the plain form will not do."""


def compiled(*arrays: Any) -> bool:
    """Return whether both ways may be compiled: contiguous floats on the CPU, outside of `torch.func` transforms."""
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    # By its type: to the compiler the answer is an object of which it knows nothing else, `None` included.
    if isinstance(torch._C._functorch.peek_interpreter_stack(), torch._C._functorch.CInterpreter):
        return False
    first = arrays[0]
    return all(
        isinstance(x, torch.Tensor)
        and x.device.type == "cpu"
        and x.dtype in WHOLE
        and x.dtype == first.dtype
        and x.dtype in NAMES
        and x.is_contiguous()
        and x.numel() > 0
        for x in arrays
    )


def choice(name: str, plain: Plain, n_arrays: int) -> Any:
    """Return an autograd function (*arrays, *static) that computes the plain form or the formula."""
    look, value, slopes, formula = plain

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            arrays, static = given[:n_arrays], given[n_arrays:]
            exact, *found = look(arrays, static)
            ctx.save_for_backward(exact, *arrays, *found)
            ctx.static = static

            def plainly(*operands: Any) -> Any:
                return value(operands[:n_arrays], static, *operands[n_arrays:]).clone()

            def by_formula(*operands: Any) -> Any:
                return formula(operands[:n_arrays], static).contiguous().clone()

            return torch.cond(exact, plainly, by_formula, (*arrays, *found))

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            exact, *saved = ctx.saved_tensors
            static, needed = ctx.static, ctx.needs_input_grad[:n_arrays]

            def wanted(found: Any) -> Any:
                return tuple(slope.contiguous().clone() for slope, need in zip(found, needed, strict=True) if need)

            def plainly(gradient: Any, *operands: Any) -> Any:
                return wanted(slopes(gradient, operands[:n_arrays], static, *operands[n_arrays:]))

            def by_formula(gradient: Any, *operands: Any) -> Any:
                pullback = torch.func.vjp(lambda *arrays: formula(arrays, static), *operands[:n_arrays])[1]
                return wanted(pullback(gradient))

            found = iter(torch.cond(exact, plainly, by_formula, (gradient.contiguous(), *saved)))
            return (*(next(found) if need else None for need in needed), *[None] * len(static))

    Function.__name__ = Function.__qualname__ = name
    return Function
