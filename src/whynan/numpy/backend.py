"""The operations of the formulas, in NumPy."""

from typing import Any

import numpy as np

from whynan.formulas.backend import Array, Backend, Guarded

WORDS = {np.dtype("float32"): np.int32, np.dtype("float64"): np.int64}


class NumPy(Backend):
    """NumPy as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "numpy"
    ns = np

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, float) and like is not None and np.issubdtype(like.dtype, np.floating):
            return np.asarray(x, like.dtype)
        return np.asarray(x)

    def is_array(self, x: Any) -> bool:
        return isinstance(x, np.ndarray | np.generic)

    def default_float(self) -> str:
        return "float64"

    def cast(self, x: Array, dtype: str) -> Array:
        if dtype == "bfloat16":
            import ml_dtypes

            return x.astype(ml_dtypes.bfloat16, copy=False)
        return x.astype(dtype, copy=False)

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
        if not isinstance(like, np.ndarray | np.generic):
            return np.where(condition, a, b)
        # NumPy 1 makes float64 of a Python number beside an array without dimensions.
        a, b = (x if isinstance(x, np.ndarray | np.generic) else np.asarray(x, like.dtype) for x in (a, b))
        if a.dtype == b.dtype and a.dtype in WORDS and np.ndim(condition) and condition.dtype == bool:
            if condition.shape == b.shape and a.ndim <= b.ndim and not condition.any():
                return b  # A guard that nothing needs costs a look, not a choice for each number.
            # By bits: the processor's guesses at the next choice fail, and cost five times as much.
            word = WORDS[a.dtype]
            a, b, every = a.view(word), b.view(word), np.negative(condition.view(np.int8), dtype=word)
            return (((a ^ b) & every) ^ b).view(like.dtype)
        return np.where(condition, a, b)

    def sound(self, x: Array) -> bool:
        return bool(np.isfinite(x).all())

    def clip(self, x: Array, limit: float) -> Array:
        return np.clip(x, np.asarray(-limit, x.dtype), np.asarray(limit, x.dtype))

    def lower(self, x: Array, low: float) -> Array:
        return np.clip(x, np.asarray(low, x.dtype), np.asarray(np.inf, x.dtype))

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

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        if np.ndim(x) == 1:
            return x[indices]
        return np.take_along_axis(x, indices.astype(np.intp), axis=dim)

    def to_numpy(self, x: Array) -> Any:
        return np.asarray(x)


XP = NumPy()
