"""The operations of the formulas, in PyTorch, and when its own kernel may be used instead of a formula.

Looking costs a pass over the data and waits for the device, so it is done for eager tensors on the CPU only. Elsewhere
(on an accelerator, under `torch.compile`, inside `torch.func` transforms) the formula is computed as it stands.

`torch.compile` takes both branches in, `torch.cond` runs one. It is done on the CPU only: an accelerator would have to
be waited for, and there the formula is fused into the kernels around it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from whynan.formulas.backend import LIMITS, Array, Axis, Backend, Guarded, Limits
from whynan.formulas.losses import GUARDED

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Function = TypeVar("Function", bound=Callable[..., Any])

WHOLE = (torch.float32, torch.float64)
PLAIN = (torch.Tensor, torch.nn.Parameter)


def transformed(x: Array) -> bool:
    """Return whether `torch.compile` traces transforms of `torch.func` in which it knows no autograd functions: `vmap`,
    alone or around others.
    """
    if not torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    return bool(functorch.get_dynamic_layer_stack_depth() > 1 or functorch.is_batchedtensor(x))


class SaturateGradient(torch.autograd.Function):
    """The identity; a gradient stops at ±limit on its way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any, limit: float) -> Any:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.clamp(-ctx.limit, ctx.limit), None


class SaturateGradientEagerly(SaturateGradient):
    """With a forward derivative, the identity's too; `torch.compile` takes no function that has one."""

    @staticmethod
    def jvp(ctx: Any, tangent: Any, limit: None) -> Any:
        return tangent.view_as(tangent)


def functions_of(guarded: Guarded) -> tuple[Any, Any]:
    """Return the autograd function of a formula with its own slopes, for arrays of one shape: eager, and compiled."""

    value, slopes = guarded.value, guarded.slopes

    class Function(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arrays: Any) -> Any:
            return value(XP, *arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            by_each = slopes(XP, *ctx.saved_tensors)
            needed = ctx.needs_input_grad
            return tuple(gradient * slope if needs else None for slope, needs in zip(by_each, needed, strict=True))

    class Eager(Function):
        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            by_each = slopes(XP, *ctx.saved_tensors)
            return sum(slope * tangent for slope, tangent in zip(by_each, tangents, strict=True) if tangent is not None)

    for kind in (Function, Eager):
        kind.__name__ = kind.__qualname__ = guarded.name
    return Eager, Function


class Torch(Backend):
    """PyTorch as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "torch"
    ns = torch

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, torch.Tensor):
            return x
        if like is None:
            return torch.as_tensor(x)
        dtype = like.dtype if like.is_floating_point() and isinstance(x, float) else None
        return torch.as_tensor(x, dtype=dtype, device=like.device)

    def is_array(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor)

    def dtype(self, x: Array) -> str:
        return NAMES.get(x.dtype) or str(x.dtype).removeprefix("torch.")

    def default_float(self) -> str:
        return NAMES[torch.get_default_dtype()]

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(DTYPES[dtype])

    def stop(self, x: Array) -> Array:
        return x.detach()

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        if not x.requires_grad or transformed(x):
            return x
        kind = SaturateGradient if torch.compiler.is_compiling() else SaturateGradientEagerly
        return kind.apply(x, limit)

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        if transformed(arrays[0]):
            return function.value(self, *arrays)
        return self.functions[function.name][torch.compiler.is_compiling()].apply(*arrays)

    def broadcast(self, *arrays: Array) -> list[Array]:
        return list(torch.broadcast_tensors(*arrays))

    def sum(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        if dim is None:
            return x.sum()
        # A sum over no dimensions is the array itself; an empty tuple means all dimensions to PyTorch.
        return x.sum(dim, keepdim=keepdim) if dim != () else x

    def amax(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        if dim is None:
            return x.amax()
        return x.amax(dim, keepdim=keepdim) if dim != () else x

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        if dim is None:
            return x.amin()
        return x.amin(dim, keepdim=keepdim) if dim != () else x

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return x.any() if dim is None else torch.any(x, dim, keepdim)

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        return x.gather(dim, indices.long())

    def arange(self, n: int, like: Array) -> Array:
        return torch.arange(n, device=like.device)

    def to_numpy(self, x: Array) -> Any:
        if x.device.type == "meta" or torch.compiler.is_compiling():
            return None
        x = x.detach()
        return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()


XP = Torch()
Torch.functions = {guarded.name: functions_of(guarded) for guarded in GUARDED}


def documented(formula: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a function the documentation of the formula that it computes."""

    def decorate(function: Function) -> Function:
        function.__doc__ = formula.__doc__
        return function

    return decorate


def eager(*arrays: Any) -> bool:
    """Return whether the values of these can be looked at for little: floats on the CPU, not traced."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(
        type(x) in PLAIN and x.device.type == "cpu" and x.dtype in NAMES and x.layout is torch.strided for x in arrays
    )


def whole(*arrays: Any) -> bool:
    """Return `eager` for non-empty arrays of one dtype that is not a half: a composition of kernels rounds once
    each.
    """
    return eager(*arrays) and arrays[0].dtype in WHOLE and all(x.dtype == arrays[0].dtype and x.numel() for x in arrays)


def full(*arrays: Any) -> bool:
    """Return whether the kernels of `whynan.torch.ops.elementwise` will do: tensors of one dtype that is not a half."""
    if not untransformed():
        return False
    return all(isinstance(x, torch.Tensor) and x.dtype in WHOLE and x.dtype == arrays[0].dtype for x in arrays)


def untransformed() -> bool:
    """Return whether no transform of `torch.func` is at work: not all of them go through all autograd functions."""
    return not torch._C._functorch.get_dynamic_layer_stack_depth()


def limits(x: Any) -> Limits:
    return LIMITS[NAMES[x.dtype]]


def least(x: Any) -> float:
    """Return the smallest element, NaN where there is no number to compare with."""
    return known(lambda: x.detach().amin().item()) if x.numel() else math.nan


def most(x: Any) -> float:
    return known(lambda: x.detach().amax().item()) if x.numel() else math.nan


def ends(x: Any) -> tuple[float, float]:
    """Return the smallest and the largest element."""
    if not x.numel():
        return math.nan, math.nan
    low, high = torch.aminmax(x.detach())
    return known(low.item), known(high.item)


def smallest(x: Any) -> float:
    """Return the smallest absolute value."""
    low, high = ends(x)
    if low > 0 or high < 0:
        return min(abs(low), abs(high))
    return least(x.detach().abs()) if x.numel() else math.nan


def largest(x: Any) -> float:
    """Return the largest absolute value, NaN where there is one."""
    low, high = ends(x)
    return max(-low, high) if low <= high else math.nan


def known(look: Callable[[], float]) -> float:
    try:
        return look()
    except RuntimeError:
        # Inside torch.vmap and while tracing there is no value to look at.
        return math.nan


def sound(x: Any) -> bool:
    """Return whether all elements are finite."""
    return math.isfinite(known(lambda: x.detach().sum().item())) if x.dim() else math.isfinite(known(x.item))


def number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


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
    if not untransformed():
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
