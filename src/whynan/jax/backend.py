"""The operations of the formulas, in JAX."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from whynan.formulas.backend import LIMITS, Array, Axis, Backend, Guarded, Plain, axes_of
from whynan.formulas.losses import GUARDED
from whynan.formulas.numbers import scale_of


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


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def length(x: Array, dim: Any, careful: Callable[[Array], Array]) -> Array:
    """The length of x: by its squares where a look at their sums says that they are exact."""
    squares = jnp.sum(x * x, axis=dim, keepdims=True)
    exact = jnp.all((squares > 1e-18) & (squares < 1e30))
    return jax.lax.cond(exact, lambda: jnp.sqrt(squares), lambda: careful(x))


@length.defjvp
def _length(dim: Any, careful: Callable[[Array], Array], primals: Any, tangents: Any) -> Any:
    value = length(primals[0], dim, careful)
    scale = scale_of(XP, value)
    flat = (value == 0) | (value >= LIMITS[XP.dtype(value)].max)
    unit = primals[0] * (scale / jnp.where(flat, 1.0, value * scale))
    return value, jnp.sum(jnp.where(flat, 0.0, unit) * tangents[0], axis=dim, keepdims=True)


def either(exact: Array, plain: Callable[[], Any], formula: Callable[[], Any]) -> Any:
    """Run one of two ways."""
    if isinstance(exact, jax.core.Tracer):
        return jax.lax.cond(exact, plain, formula)
    return plain() if exact else formula()


class Jax(Backend):
    """JAX as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "jax"
    ns = jnp

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, float) and like is not None and jnp.issubdtype(like.dtype, jnp.floating):
            return jnp.asarray(x, like.dtype)
        return jnp.asarray(x)

    @property
    def chooses(self) -> bool:
        # An accelerator would have to be waited for.
        return jax.default_backend() == "cpu"

    def choose(self, plain: Plain, formula: Callable[..., Any], arrays: tuple[Array, ...], static: Any) -> Any:
        """Return the plain form of some arrays where it is exact, else the formula; of either only one is run."""
        places = [place for place, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]

        def forward(*arrays: Array) -> Any:
            def looked(*arrays: Array) -> tuple[Any, Any]:
                exact, *found = plain.look(self, arrays, static)
                return found[0], (exact, found)

            if plain.slopes is None:
                _, pullback, (exact, found) = jax.vjp(looked, *arrays, has_aux=True)
            else:
                pullback, (exact, found) = None, looked(*arrays)[1]
            value = either(exact, lambda: plain.value(self, arrays, static, *found), lambda: formula(*arrays))
            return value, (exact, arrays, found, pullback)

        def by_slopes(gradient: Any, arrays: tuple[Array, ...], found: list[Array], pullback: Any) -> Any:
            if plain.slopes is None:
                slopes = pullback(gradient)
            else:
                slopes = plain.slopes(self, gradient, arrays, static, *found)
            slopes = [slopes[place] for place in places]
            return slopes if plain.bounded else [self.clip(x, LIMITS[self.dtype(x)].max) for x in slopes]

        def by_formula(gradient: Any, arrays: tuple[Array, ...]) -> Any:
            slopes = jax.vjp(formula, *arrays)[1](gradient)
            return [slopes[place] for place in places]

        def backward(saved: Any, gradient: Any) -> Any:
            exact, arrays, found, pullback = saved
            slopes = either(
                exact, lambda: by_slopes(gradient, arrays, found, pullback), lambda: by_formula(gradient, arrays)
            )  # fmt: skip
            return tuple(slopes[places.index(place)] if place in places else None for place in range(len(arrays)))

        function = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
        function.defvjp(forward, backward)
        return function(*arrays)

    def default_float(self) -> str:
        return str(jnp.result_type(float))

    def cast(self, x: Array, dtype: str) -> Array:
        return jnp.asarray(x).astype(dtype)

    def stop(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def length(self, x: Array, dim: Axis, careful: Callable[[Array], Array]) -> Array:
        return length(x, axes_of(dim), careful)

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        return saturate_gradient(x, limit)

    def clip(self, x: Array, limit: float) -> Array:
        # One use of x, which lets XLA compute it in the same loop.
        return jax.lax.clamp(jnp.asarray(-limit, x.dtype), x, jnp.asarray(limit, x.dtype))

    def broadcast(self, *arrays: Array) -> list[Array]:
        return list(jnp.broadcast_arrays(*arrays))

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            # Keras hands class indices over as floats.
            indices = indices.astype(jnp.int32)
        return jnp.take_along_axis(x, indices, axis=dim)

    def rows(self, x: Array, indices: Array) -> Array:
        return x.at[indices.astype(jnp.int32)].get(mode="fill", fill_value=jnp.nan)

    def pick(self, x: Array, indices: Array, own: Array, dim: int) -> Array:
        # The slope of a gather is a scatter, a loop of its own. An index out of range gives NaN, as with `take`.
        picked = jnp.sum(jnp.where(own, x, 0.0), dim, keepdims=True)
        return jnp.where((indices >= 0) & (indices < x.shape[dim]), picked, jnp.nan)

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
Jax.functions = {guarded.name: function_of(guarded) for guarded in GUARDED}
