"""The operations of the formulas, in PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whynan.formulas.backend import Array, Axis, Guarded
from whynan.formulas.guarded import GUARDED

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


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


def function_of(guarded: Guarded) -> Any:
    """Return the autograd function of a formula with its own slopes, for arrays of one shape."""

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

    Function.__name__ = Function.__qualname__ = guarded.name
    return Function


class Torch:
    """PyTorch as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "torch"

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

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def stop(self, x: Array) -> Array:
        return x.detach()

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        return SaturateGradient.apply(x, limit) if x.requires_grad else x

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        return FUNCTIONS[function.name].apply(*arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return torch.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        return x.exp()

    def expm1(self, x: Array) -> Array:
        return x.expm1()

    def log(self, x: Array) -> Array:
        return x.log()

    def log1p(self, x: Array) -> Array:
        return x.log1p()

    def sqrt(self, x: Array) -> Array:
        return x.sqrt()

    def abs(self, x: Array) -> Array:
        return x.abs()

    def sign(self, x: Array) -> Array:
        return x.sign()

    def floor(self, x: Array) -> Array:
        return x.floor()

    def acos(self, x: Array) -> Array:
        return x.acos()

    def asin(self, x: Array) -> Array:
        return x.asin()

    def atan2(self, y: Array, x: Array) -> Array:
        return torch.atan2(y, x)

    def raw_power(self, x: Array, p: Array) -> Array:
        return torch.pow(x, p)

    def broadcast(self, *arrays: Array) -> list[Array]:
        return list(torch.broadcast_tensors(*arrays))

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return x.expand(shape)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def moveaxis(self, x: Array, source: int, target: int) -> Array:
        return x.movedim(source, target)

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

    def cumsum(self, x: Array, dim: int) -> Array:
        return x.cumsum(dim)

    def argsort(self, x: Array, dim: int) -> Array:
        return x.argsort(dim)

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        return x.gather(dim, indices.long())

    def arange(self, n: int, like: Array) -> Array:
        return torch.arange(n, device=like.device)

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        return torch.cat(list(arrays), dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        return torch.stack(list(arrays), dim)

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def scan(self, step: Callable[[Array, Array], Array], first: Array, rows: Array) -> Array:
        states = [first]
        for row in rows:
            states.append(step(states[-1], row))
        return torch.stack(states)

    def to_numpy(self, x: Array) -> Any:
        if x.device.type == "meta" or torch.compiler.is_compiling():
            return None
        x = x.detach()
        return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()


XP = Torch()
FUNCTIONS = {guarded.name: function_of(guarded) for guarded in GUARDED}
