"""The operations of the formulas, in MindSpore."""

from collections.abc import Sequence
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from whynan.formulas.backend import Array, Axis, Backend, Guarded, axes_of

DTYPES = {
    "float64": mindspore.float64,
    "float32": mindspore.float32,
    "bfloat16": mindspore.bfloat16,
    "float16": mindspore.float16,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {mindspore.bool_: "bool"}


class SaturateGradient(nn.Cell):
    """The identity; a gradient stops at ±limit on its way back."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def construct(self, x: Array) -> Array:
        return x * 1.0

    def bprop(self, x: Array, out: Array, upstream: Array) -> tuple[Array]:
        limit = self.limit
        return (XP.where(upstream > limit, limit, XP.where(upstream < -limit, -limit, upstream)),)


class WithSlope(nn.Cell):
    """A formula of one array with its own slope."""

    def __init__(self, guarded: Guarded) -> None:
        super().__init__()
        self.guarded = guarded

    def construct(self, x: Array) -> Array:
        return self.guarded.value(XP, x)

    def bprop(self, x: Array, out: Array, upstream: Array) -> tuple[Array]:
        return (upstream * self.guarded.slopes(XP, x)[0],)


class WithSlopes(WithSlope):
    """A formula of two arrays with its own slopes."""

    def construct(self, a: Array, b: Array) -> Array:  # type: ignore[override]
        return self.guarded.value(XP, a, b)

    def bprop(self, a: Array, b: Array, out: Array, upstream: Array) -> tuple[Array, Array]:  # type: ignore[override]
        by_a, by_b = self.guarded.slopes(XP, a, b)
        return upstream * by_a, upstream * by_b


class MindSpore(Backend):
    """MindSpore as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "mindspore"
    ns = ops

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, Tensor):
            return x
        if isinstance(x, float) and like is not None and like.dtype in NAMES:
            return Tensor(x, like.dtype)
        if isinstance(x, float):
            return Tensor(x, mindspore.float32)
        return Tensor(np.asarray(x))

    def is_array(self, x: Any) -> bool:
        return isinstance(x, Tensor)

    def dtype(self, x: Array) -> str:
        return NAMES.get(x.dtype) or str(x.dtype).lower()

    def default_float(self) -> str:
        return "float32"

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(DTYPES[dtype])

    def stop(self, x: Array) -> Array:
        return ops.stop_gradient(x)

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        return SaturateGradient(limit)(x)

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        return (WithSlope if len(arrays) == 1 else WithSlopes)(function)(*arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        like = a if isinstance(a, Tensor) else b
        if isinstance(like, Tensor):
            a, b = (x if isinstance(x, Tensor) else Tensor(x, like.dtype) for x in (a, b))
        if not condition.size or not a.size or not b.size:
            # The kernel knows no arrays without elements.
            return (a if a.size == 0 else b) * 1
        return ops.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        # The kernel for float32 on the CPU overflows at 88.4, where the exponential is a number up to 88.7, and is
        # inexact.
        if x.dtype == mindspore.float32 and mindspore.get_context("device_target") == "CPU":
            return ops.exp(x.astype(mindspore.float64)).astype(mindspore.float32)
        return ops.exp(x)

    def expm1(self, x: Array) -> Array:
        """exp(x) - 1 by Kahan's formula; MindSpore's own subtracts, and its slope is taken."""
        plain = ops.expm1(x)
        u = ops.stop_gradient(self.exp(x))
        same = u == 1
        gone = u - 1 == -1
        odd = self.where(same, same, gone) if same.size else same
        exact = (u - 1) * x / ops.log(self.where(odd, 2.0 + u * 0, u))
        value = self.where(same, x, self.where(gone, x * 0 - 1, exact))
        return ops.stop_gradient(value) + (plain - ops.stop_gradient(plain))

    def log1p(self, x: Array) -> Array:
        """log(1 + x) by Kahan's formula; MindSpore's own adds, and its slope is taken."""
        plain = ops.log1p(x)
        u = ops.stop_gradient(1 + x)
        same = u == 1
        exact = ops.log(u) * (x / self.where(same, u * 0 + 1, u - 1))
        value = self.where(same, x, exact)
        return ops.stop_gradient(value) + (plain - ops.stop_gradient(plain))

    def broadcast(self, *arrays: Array) -> list[Array]:
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        return [self.broadcast_to(x, shape) for x in arrays]

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return x if tuple(x.shape) == tuple(shape) else ops.broadcast_to(x, tuple(shape))

    def sum(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        if dim == ():
            return x
        return mindspore.mint.sum(x, axes_of(dim), keepdim) if (
            dim is not None) else mindspore.mint.sum(x)  # fmt: skip

    def amax(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        if dim == ():
            return x
        return ops.amax(x, axes_of(dim), keepdim)

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        if dim == ():
            return x
        return ops.amin(x, axes_of(dim), keepdim)

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return ops.any(x, axes_of(dim), keepdim)

    def argsort(self, x: Array, dim: int) -> Array:
        return ops.argsort(x.astype(mindspore.float32), dim)

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        if not indices.size or not x.size:
            shape = list(indices.shape)
            return ops.zeros(tuple(shape), x.dtype)
        return ops.gather_elements(x, dim, indices.astype(mindspore.int64))

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        kept = [x for x in arrays if x.size] or list(arrays)[:1]
        return ops.cat(kept, dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        if not arrays[0].size:
            shape = list(arrays[0].shape)
            shape.insert(dim % (len(shape) + 1), len(arrays))
            return ops.zeros(tuple(shape), arrays[0].dtype)
        return ops.stack(list(arrays), dim)

    def to_numpy(self, x: Array) -> Any:
        return x.astype(mindspore.float32).asnumpy() if x.dtype == mindspore.bfloat16 else x.asnumpy()


XP = MindSpore()
