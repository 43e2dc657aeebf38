"""The operations of the formulas, in JAX."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from whynan.formulas.backend import Array, Axis, Guarded
from whynan.formulas.guarded import GUARDED


def axes_of(dim: Axis) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def saturate_gradient(x: Array, limit: float) -> Array:
    """The identity; a gradient stops at ±limit on its way back."""
    return x


def _forward(x: Array, limit: float) -> tuple[Array, None]:
    return x, None


def _backward(limit: float, _: None, gradient: Array) -> tuple[Array]:
    return (jnp.clip(gradient, -limit, limit),)


saturate_gradient.defvjp(_forward, _backward)


def function_of(guarded: Guarded) -> Any:
    """Return the function of a formula with its own slopes."""

    @jax.custom_jvp
    def function(*arrays: Array) -> Array:
        return guarded.value(XP, *arrays)

    @function.defjvp
    def tangent(primals: Any, tangents: Any) -> Any:
        slopes = guarded.slopes(XP, *primals)
        return function(*primals), sum(slope * tangent for slope, tangent in zip(slopes, tangents, strict=True))

    return function


class Jax:
    """JAX as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "jax"

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, float) and like is not None and jnp.issubdtype(like.dtype, jnp.floating):
            return jnp.asarray(x, like.dtype)
        return jnp.asarray(x)

    def is_array(self, x: Any) -> bool:
        return hasattr(x, "dtype")

    def dtype(self, x: Array) -> str:
        return str(x.dtype)

    def default_float(self) -> str:
        return str(jnp.result_type(float))

    def cast(self, x: Array, dtype: str) -> Array:
        return jnp.asarray(x).astype(dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def stop(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        return saturate_gradient(x, limit)

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        return FUNCTIONS[function.name](*arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return jnp.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        return jnp.exp(x)

    def expm1(self, x: Array) -> Array:
        return jnp.expm1(x)

    def log(self, x: Array) -> Array:
        return jnp.log(x)

    def log1p(self, x: Array) -> Array:
        return jnp.log1p(x)

    def sqrt(self, x: Array) -> Array:
        return jnp.sqrt(x)

    def abs(self, x: Array) -> Array:
        return jnp.abs(x)

    def sign(self, x: Array) -> Array:
        return jnp.sign(x)

    def floor(self, x: Array) -> Array:
        return jnp.floor(x)

    def acos(self, x: Array) -> Array:
        return jnp.arccos(x)

    def asin(self, x: Array) -> Array:
        return jnp.arcsin(x)

    def atan2(self, y: Array, x: Array) -> Array:
        return jnp.arctan2(y, x)

    def raw_power(self, x: Array, p: Array) -> Array:
        return jnp.power(x, p)

    def broadcast(self, *arrays: Array) -> list[Array]:
        return list(jnp.broadcast_arrays(*arrays))

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(x, shape)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return jnp.reshape(x, shape)

    def moveaxis(self, x: Array, source: int, target: int) -> Array:
        return jnp.moveaxis(x, source, target)

    def sum(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return jnp.sum(x, axis=axes_of(dim), keepdims=keepdim)

    def amax(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return jnp.max(x, axis=axes_of(dim), keepdims=keepdim)

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return jnp.min(x, axis=axes_of(dim), keepdims=keepdim)

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return jnp.any(x, axis=axes_of(dim), keepdims=keepdim)

    def cumsum(self, x: Array, dim: int) -> Array:
        return jnp.cumsum(x, axis=dim)

    def argsort(self, x: Array, dim: int) -> Array:
        return jnp.argsort(x, axis=dim)

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            # Keras hands class indices over as floats.
            indices = indices.astype(jnp.int32)
        return jnp.take_along_axis(x, indices, axis=dim)

    def arange(self, n: int, like: Array) -> Array:
        return jnp.arange(n)

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        return jnp.concatenate(list(arrays), axis=dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        return jnp.stack(list(arrays), axis=dim)

    def matmul(self, a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest")

    def scan(self, step: Callable[[Array, Array], Array], first: Array, rows: Array) -> Array:
        def body(state: Array, row: Array) -> tuple[Array, Array]:
            following = step(state, row)
            return following, following

        _, states = jax.lax.scan(body, first, rows)
        return jnp.concatenate([first[None], states])

    def to_numpy(self, x: Array) -> Any:
        if isinstance(x, jax.core.Tracer):
            return None
        import numpy as np

        return np.asarray(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x)


XP = Jax()
FUNCTIONS = {guarded.name: function_of(guarded) for guarded in GUARDED}
