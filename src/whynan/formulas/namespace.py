"""What the frameworks' operations have in common: most of them are functions of a module, under the same names."""

from collections.abc import Callable, Sequence
from typing import Any

from whynan.formulas.backend import Array, Axis, Guarded


def axes_of(dim: Axis) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)


class Namespace:
    """The operations of `whynan.formulas.backend.Backend` that are functions of the module `ns`."""

    ns: Any
    functions: dict[str, Any]
    """Functions with slopes of their own, by name."""

    def is_array(self, x: Any) -> bool:
        return hasattr(x, "dtype")

    def dtype(self, x: Array) -> str:
        return str(x.dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        return self.functions[function.name](*arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return self.ns.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        return self.ns.exp(x)

    def expm1(self, x: Array) -> Array:
        return self.ns.expm1(x)

    def log(self, x: Array) -> Array:
        return self.ns.log(x)

    def log1p(self, x: Array) -> Array:
        return self.ns.log1p(x)

    def sqrt(self, x: Array) -> Array:
        return self.ns.sqrt(x)

    def abs(self, x: Array) -> Array:
        return self.ns.abs(x)

    def sign(self, x: Array) -> Array:
        return self.ns.sign(x)

    def floor(self, x: Array) -> Array:
        return self.ns.floor(x)

    def acos(self, x: Array) -> Array:
        return self.ns.acos(x)

    def asin(self, x: Array) -> Array:
        return self.ns.asin(x)

    def atan2(self, y: Array, x: Array) -> Array:
        return self.ns.atan2(y, x)

    def raw_power(self, x: Array, p: Array) -> Array:
        return self.ns.pow(x, p)

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.ns.broadcast_to(x, shape)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return self.ns.reshape(x, tuple(shape))

    def moveaxis(self, x: Array, source: int, target: int) -> Array:
        return self.ns.moveaxis(x, source, target)

    def sum(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.ns.sum(x, axis=axes_of(dim), keepdims=keepdim)

    def amax(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.ns.max(x, axis=axes_of(dim), keepdims=keepdim)

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.ns.min(x, axis=axes_of(dim), keepdims=keepdim)

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.ns.any(x, axis=axes_of(dim), keepdims=keepdim)

    def cumsum(self, x: Array, dim: int) -> Array:
        return self.ns.cumsum(x, dim)

    def argsort(self, x: Array, dim: int) -> Array:
        return self.ns.argsort(x, dim)

    def arange(self, n: int, like: Array) -> Array:
        return self.ns.arange(n)

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        return self.ns.concatenate(list(arrays), dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        return self.ns.stack(list(arrays), dim)

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def scan(self, step: Callable[[Array, Array], Array], first: Array, rows: Array) -> Array:
        states = [first]
        for index in range(rows.shape[0]):
            states.append(step(states[-1], rows[index]))
        return self.ns.stack(states)
