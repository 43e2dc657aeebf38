"""The operations of the formulas, in NumPy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whynan.formulas.backend import Array, Axis, Guarded


def axes_of(dim: Axis) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)


class NumPy:
    """NumPy as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "numpy"

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, float) and like is not None and np.issubdtype(like.dtype, np.floating):
            return np.asarray(x, like.dtype)
        return np.asarray(x)

    def is_array(self, x: Any) -> bool:
        return isinstance(x, np.ndarray | np.generic)

    def dtype(self, x: Array) -> str:
        return str(x.dtype)

    def default_float(self) -> str:
        return "float64"

    def cast(self, x: Array, dtype: str) -> Array:
        if dtype == "bfloat16":
            import ml_dtypes

            return x.astype(ml_dtypes.bfloat16)
        return x.astype(dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(np.shape(x))

    def stop(self, x: Array) -> Array:
        return x

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        return x

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        return function.value(self, *arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        like = a if isinstance(a, np.ndarray | np.generic) else b
        if isinstance(like, np.ndarray | np.generic):
            # NumPy 1 makes float64 of a Python number beside an array without dimensions.
            a, b = (x if isinstance(x, np.ndarray | np.generic) else np.asarray(x, like.dtype) for x in (a, b))
        return np.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        return np.exp(x)

    def expm1(self, x: Array) -> Array:
        return np.expm1(x)

    def log(self, x: Array) -> Array:
        return np.log(x)

    def log1p(self, x: Array) -> Array:
        return np.log1p(x)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def abs(self, x: Array) -> Array:
        return np.abs(x)

    def sign(self, x: Array) -> Array:
        return np.sign(x)

    def floor(self, x: Array) -> Array:
        return np.floor(x)

    def acos(self, x: Array) -> Array:
        return np.arccos(x)

    def asin(self, x: Array) -> Array:
        return np.arcsin(x)

    def atan2(self, y: Array, x: Array) -> Array:
        return np.arctan2(y, x)

    def raw_power(self, x: Array, p: Array) -> Array:
        return np.power(x, p)

    def broadcast(self, *arrays: Array) -> list[Array]:
        return list(np.broadcast_arrays(*arrays))

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(x, shape)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return np.reshape(x, shape)

    def moveaxis(self, x: Array, source: int, target: int) -> Array:
        return np.moveaxis(x, source, target)

    def sum(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return np.sum(x, axis=axes_of(dim), keepdims=keepdim)

    def amax(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return np.max(x, axis=axes_of(dim), keepdims=keepdim)

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return np.min(x, axis=axes_of(dim), keepdims=keepdim)

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return np.any(x, axis=axes_of(dim), keepdims=keepdim)

    def cumsum(self, x: Array, dim: int) -> Array:
        return np.cumsum(x, axis=dim)

    def argsort(self, x: Array, dim: int) -> Array:
        return np.argsort(x, axis=dim)

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        if np.ndim(x) == 1:
            return x[indices]
        return np.take_along_axis(x, indices.astype(np.intp), axis=dim)

    def arange(self, n: int, like: Array) -> Array:
        return np.arange(n)

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        return np.concatenate(list(arrays), axis=dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        return np.stack(list(arrays), axis=dim)

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def scan(self, step: Callable[[Array, Array], Array], first: Array, rows: Array) -> Array:
        states = [first]
        for row in rows:
            states.append(step(states[-1], row))
        return np.stack(states)

    def to_numpy(self, x: Array) -> Any:
        return np.asarray(x)


XP = NumPy()
