"""The operations of the formulas, in MindSpore."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from whynan.formulas.backend import LIMITS, Array, Axis, Backend, Guarded, axes_of

DTYPES = {
    "float64": mindspore.float64,
    "float32": mindspore.float32,
    "bfloat16": mindspore.bfloat16,
    "float16": mindspore.float16,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {mindspore.bool_: "bool"}


def on_cpu(*arrays: Array) -> bool:
    """Return whether arrays may be looked at: on the CPU NumPy does it for less than any operation costs."""
    return mindspore.get_context("device_target") == "CPU" and all(
        x.size and x.dtype in (mindspore.float32, mindspore.float64, mindspore.bool_) for x in arrays
    )


def within(x: Array, low: float, high: float = math.inf) -> bool:
    """Return whether all of x is known to lie in [low, high]."""
    if not on_cpu(x):
        return False
    values = x.asnumpy()
    return bool(values.min() >= low and (high == math.inf or values.max() <= high))


class SaturateGradient(nn.Cell):
    """The identity; a gradient stops at ±limit on its way back."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def construct(self, x: Array) -> Array:
        return x[...]

    def bprop(self, x: Array, out: Array, upstream: Array) -> tuple[Array]:
        limit = self.limit
        if within(upstream, -limit, limit):
            return (upstream,)
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


def far_from_ends(x: Any, least: float = 1e-9) -> bool:
    return bool(least <= x.min() and x.max() <= 1e9)


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
        return x if x.dtype == DTYPES[dtype] else x.astype(DTYPES[dtype])

    def stop(self, x: Array) -> Array:
        return ops.stop_gradient(x)

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        return SaturateGradient(limit)(x)

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        plain, suits = PLAIN.get(function.name.removesuffix(" float32"), (None, None))
        if plain and suits and on_cpu(*arrays) and suits(*(x.asnumpy() for x in arrays)):
            return plain(*arrays)
        return (WithSlope if len(arrays) == 1 else WithSlopes)(function)(*arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        like = a if isinstance(a, Tensor) else b
        if isinstance(like, Tensor):
            a, b = (x if isinstance(x, Tensor) else Tensor(x, like.dtype) for x in (a, b))
        if not condition.size or not a.size or not b.size:
            # The kernel knows no arrays without elements.
            return (a if a.size == 0 else b) * 1
        if condition.shape == b.shape and a.dtype == b.dtype and a.ndim <= b.ndim and within(condition, 0, 0):
            return b
        return ops.where(condition, a, b)

    def length(self, x: Array, dim: Axis, careful: Callable[[Array], Array]) -> Array:
        squares = self.sum(x * x, dim, True)
        return ops.sqrt(squares) if within(squares, 1e-24, 1e24) else careful(x)

    def sound(self, x: Array) -> bool:
        return within(x, -LIMITS["float32"].max, LIMITS["float32"].max)

    def clip(self, x: Array, limit: float) -> Array:
        return x if within(x, -limit, limit) else super().clip(x, limit)

    def lower(self, x: Array, low: float) -> Array:
        return x if within(x, low) else super().lower(x, low)

    def exp(self, x: Array) -> Array:
        # The kernel for float32 on the CPU overflows at 88.4, where the exponential is a number up to 88.7, and is
        # inexact.
        if x.dtype == mindspore.float32 and mindspore.get_context("device_target") == "CPU":
            return ops.exp(x.astype(mindspore.float64)).astype(mindspore.float32)
        return ops.exp(x)

    def expm1(self, x: Array) -> Array:
        """exp(x) - 1 by Kahan's formula or NumPy; MindSpore's own subtracts, and its slope is taken."""
        plain = ops.expm1(x)
        if on_cpu(x):
            return self.with_slope_of(plain, Tensor(np.expm1(x.asnumpy())))
        u = ops.stop_gradient(self.exp(x))
        same = u == 1
        gone = u - 1 == -1
        odd = self.where(same, same, gone) if same.size else same
        exact = (u - 1) * x / ops.log(self.where(odd, 2.0 + u * 0, u))
        return self.with_slope_of(plain, self.where(same, x, self.where(gone, x * 0 - 1, exact)))

    def log(self, x: Array) -> Array:
        # Some threads of the CPU's kernels take a subnormal number for 0 here that others compare as above 0.
        return self.lower(ops.log(x), -800.0) if on_cpu(x) else ops.log(x)

    def log1p(self, x: Array) -> Array:
        """log(1 + x) by Kahan's formula or NumPy; MindSpore's own adds, and its slope is taken."""
        plain = ops.log1p(x)
        if on_cpu(x):
            return self.with_slope_of(plain, Tensor(np.log1p(x.asnumpy())))
        u = ops.stop_gradient(1 + x)
        same = u == 1
        exact = ops.log(u) * (x / self.where(same, u * 0 + 1, u - 1))
        return self.with_slope_of(plain, self.where(same, x, exact))

    def with_slope_of(self, plain: Array, value: Array) -> Array:
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

# MindSpore's own operations, and where value and slopes are exact and finite: by the name of a guarded function.
PLAIN: dict[str, tuple[Callable[..., Array], Callable[..., bool]]] = {
    "root": (ops.sqrt, far_from_ends),
    "exp": (XP.exp, lambda x: bool(x.max() <= 80)),
    "acos": (ops.acos, lambda x: far_from_ends(1 - abs(x))),
    "asin": (ops.asin, lambda x: far_from_ends(1 - abs(x))),
    "quotient": (ops.div, lambda a, b: far_from_ends(abs(a), 0.0) and far_from_ends(abs(b))),
    "inverse": (lambda x: 1 / x, lambda x: far_from_ends(abs(x))),
    "power": (ops.pow, lambda x, p: far_from_ends(x) and bool(abs(p).max() <= 3)),
    "angle": (ops.atan2, lambda y, x: far_from_ends(np.maximum(abs(x), abs(y)))),
}
