"""The operations of the formulas, in PyTorch."""

from typing import Any

import torch

from whynan.formulas.backend import Array, Axis, Guarded, Namespace
from whynan.formulas.guarded import GUARDED

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


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


class Torch(Namespace):
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
