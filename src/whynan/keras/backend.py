"""The operations of the formulas, in Keras: those of `keras.ops` on TensorFlow; on JAX and PyTorch their own."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from whynan.formulas.backend import LIMITS, Array, Arrays, Axis, Backend, Guarded, Plain, axes_of
from whynan.formulas.losses import GUARDED


class TensorFlow(Backend):
    """TensorFlow as the formulas see it; the methods are described in `whynan.formulas.backend.Backend`."""

    name = "tensorflow"

    def __init__(self) -> None:
        import tensorflow

        self.tf, self.ns = tensorflow, tensorflow.math
        self.functions = {guarded.name: self.function_of(guarded) for guarded in GUARDED}

    def function_of(self, guarded: Guarded) -> Any:
        @self.tf.custom_gradient
        def function(*arrays: Array) -> Any:
            def gradient(upstream: Array) -> Any:
                return tuple(upstream * slope for slope in guarded.slopes(self, *arrays))

            return guarded.value(self, *arrays), gradient

        return function

    @property
    def chooses(self) -> bool:
        # An accelerator would have to be waited for.
        return not self.tf.config.list_physical_devices("GPU")

    def size(self, x: Array) -> Any:
        count = x.shape.num_elements()
        return self.tf.cast(self.tf.size(x), x.dtype) if count is None else count

    def either(self, exact: Any, plain: Callable[[], Any], formula: Callable[[], Any]) -> Any:
        """Run one of two ways."""
        if self.tf.executing_eagerly():
            return plain() if exact else formula()
        return self.tf.cond(exact, plain, formula)

    def choose(self, plain: Plain, formula: Callable[..., Any], arrays: Arrays, static: Any) -> Any:
        """Return the plain form of some arrays where it is exact, else the formula; of either only one is run."""
        tf, places = self.tf, [place for place, x in enumerate(arrays) if x.dtype.is_floating]

        def taped(function: Callable[..., Any], floats: Arrays) -> tuple[Any, Callable[[Array], list[Array]]]:
            """Return the result of a function of all arrays, and what gives the gradients of its first part."""
            known = dict(zip(places, floats, strict=True))
            with tf.GradientTape() as tape:
                tape.watch(floats)
                result = function(*(known.get(place, x) for place, x in enumerate(arrays)))
            first = result[0] if isinstance(result, tuple) else result
            return result, lambda upstream: [
                tf.convert_to_tensor(slope)
                for slope in tape.gradient(first, floats, upstream, tf.UnconnectedGradients.ZERO)
            ]

        @tf.custom_gradient
        def function(*floats: Array) -> Any:
            def look(*arrays: Array) -> Any:
                exact, *found = plain.look(self, arrays, static)
                return *found, exact

            if plain.slopes is None:
                (*found, exact), pullback = taped(look, floats)
            else:
                *found, exact = look(*arrays)

            def by_slopes(upstream: Array) -> list[Array]:
                slopes = pullback(upstream) if plain.slopes is None else [
                    plain.slopes(self, upstream, arrays, static, *found)[place] for place in places]  # fmt: skip
                return slopes if plain.bounded else [self.clip(x, LIMITS[self.dtype(x)].max) for x in slopes]

            def gradient(upstream: Array) -> Any:
                return self.either(
                    exact, lambda: by_slopes(upstream), lambda: taped(formula, floats)[1](upstream)
                )  # fmt: skip

            value = self.either(
                exact, lambda: plain.value(self, arrays, static, *found), lambda: formula(*arrays)
            )  # fmt: skip
            return value, gradient

        return function(*(arrays[place] for place in places))

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        if isinstance(x, float) and like is not None and like.dtype.is_floating:
            return self.tf.constant(x, like.dtype)
        return self.tf.convert_to_tensor(x)

    def dtype(self, x: Array) -> str:
        return str(getattr(x.dtype, "name", x.dtype))

    def default_float(self) -> str:
        return str(keras.config.floatx())

    def cast(self, x: Array, dtype: str) -> Array:
        return self.tf.cast(x, dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        static = tuple(x.shape)
        if None not in static:
            return static
        dynamic = self.tf.shape(x)
        return tuple(dynamic[index] if size is None else size for index, size in enumerate(static))

    def stop(self, x: Array) -> Array:
        return self.tf.stop_gradient(x)

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        @self.tf.custom_gradient
        def identity(value: Array) -> Any:
            return self.tf.identity(value), lambda upstream: self.clip(upstream, limit)

        return identity(x)

    def clip(self, x: Array, limit: float) -> Array:
        return self.tf.maximum(self.tf.minimum(x, limit), -limit)

    def lower(self, x: Array, low: float) -> Array:
        return self.tf.maximum(x, low)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        like = a if hasattr(a, "dtype") else b
        if hasattr(like, "dtype"):
            a, b = (x if hasattr(x, "dtype") else self.tf.constant(x, like.dtype) for x in (a, b))
        return self.tf.where(condition, a, b)

    def broadcast(self, *arrays: Array) -> list[Array]:
        shape = self.tf.shape(arrays[0])
        for x in arrays[1:]:
            shape = self.tf.broadcast_dynamic_shape(shape, self.tf.shape(x))
        static = arrays[0].shape
        for x in arrays[1:]:
            static = self.tf.broadcast_static_shape(static, x.shape)
        return [x if x.shape == static and static.is_fully_defined() else self.tf.ensure_shape(
            self.tf.broadcast_to(x, shape), static) for x in arrays]  # fmt: skip

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.tf.broadcast_to(x, shape)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.tf.reshape(x, shape)

    def moveaxis(self, x: Array, source: int, target: int) -> Array:
        return keras.ops.moveaxis(x, source, target)

    def sum(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.tf.reduce_sum(x, axis=axes_of(dim), keepdims=keepdim)

    def amax(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.tf.reduce_max(x, axis=axes_of(dim), keepdims=keepdim)

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.tf.reduce_min(x, axis=axes_of(dim), keepdims=keepdim)

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.tf.reduce_any(x, axis=axes_of(dim), keepdims=keepdim)

    def cumsum(self, x: Array, dim: int) -> Array:
        return self.tf.cumsum(x, axis=dim)

    def argsort(self, x: Array, dim: int) -> Array:
        return self.tf.argsort(x, axis=dim)

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        if len(x.shape) == 1:
            return self.tf.gather(x, indices)
        return keras.ops.take_along_axis(x, self.tf.cast(indices, "int64"), axis=dim)

    def rows(self, x: Array, indices: Array) -> Array:
        return self.tf.gather(x, self.tf.cast(indices, "int64"))

    def arange(self, n: int, like: Array) -> Array:
        dtype = like.dtype if like.dtype.is_integer else "int64"
        return self.tf.range(self.tf.cast(n, dtype), dtype=dtype)

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        return self.tf.concat(list(arrays), dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        return self.tf.stack(list(arrays), dim)

    def scan(self, step: Callable[[Array, Array], Array], first: Array, rows: Array) -> Array:
        states = self.tf.scan(step, rows, first)
        return self.tf.concat([first[None], states], 0)

    def to_numpy(self, x: Array) -> Any:
        return x.numpy() if hasattr(x, "numpy") and self.tf.executing_eagerly() else None


def chosen() -> Backend:
    """Return the operations of the backend that Keras runs on."""
    name = keras.config.backend()
    if name == "torch":
        from whynan.torch.backend import XP as TORCH

        return TORCH
    if name == "jax":
        from whynan.jax.backend import XP as JAX

        return JAX
    if name == "tensorflow":
        return TensorFlow()
    raise ImportError(f"whynan.keras runs on TensorFlow, JAX and PyTorch; the backend of Keras is {name}")


XP: Backend = chosen()
