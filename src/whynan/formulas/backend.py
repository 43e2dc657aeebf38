"""What a formula needs from a framework, what frameworks have in common, and a formula as a function of one."""

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from types import SimpleNamespace as Static
from typing import Any, NamedTuple, TypeVar

Array = Any
Arrays = tuple[Array, ...]
Axis = int | Sequence[int] | None


@dataclass(frozen=True)
class Limits:
    """The numbers of a floating-point dtype: largest, smallest normal, distance from 1 to the next."""

    max: float
    tiny: float
    eps: float
    log_max: float
    """The largest number of the dtype whose exponential is still a number of the dtype."""


LIMITS = {
    "float64": Limits(1.7976931348623157e308, 2.2250738585072014e-308, 2.0**-52, 709.782712893384),
    "float32": Limits(3.4028234663852886e38, 2.0**-126, 2.0**-23, 88.72283172607422),
    "bfloat16": Limits(3.3895313892515355e38, 2.0**-126, 2.0**-7, 88.71890258789062),
    "float16": Limits(65504.0, 2.0**-14, 2.0**-10, 11.08984375),
}
HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Guarded:
    """An elementwise function with its slopes written out, because those that a framework derives leave the numbers.

    `value(xp, *arrays)` gives an array, `slopes(xp, *arrays)` one finite array for each argument.
    """

    name: str
    value: Callable[..., Array]
    slopes: Callable[..., tuple[Array, ...]]


class Plain(NamedTuple):
    """The plain form of a formula of some arrays. `static` holds its other arguments, by name."""

    arrays: tuple[str, ...]
    """The arguments that are arrays; those of floats are of one dtype, which is no half."""
    fits: Callable[[Any, Arrays, Static], bool]
    """Whether shapes and other arguments allow it; the arrays have elements."""
    look: Callable[[Any, Arrays, Static], Arrays]
    """Whether the plain form is exact, as an array of one boolean, and what it computes with, the value by itself."""
    value: Callable[..., Array] = lambda xp, arrays, static, *found: found[0]
    """(xp, arrays, static, *what look found) -> the value."""
    slopes: Callable[..., Arrays] | None = None
    """(xp, gradient, arrays, static, *what look found) -> the gradient of each array; without it, that of the value
    that look finds is derived."""
    bounded: bool = False
    """Whether no slope is above 1, so that no gradient leaves the numbers."""


def axes_of(dim: Axis) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)


class Backend:
    """The operations of one framework; those that have a body here are functions of the module `ns`, or of others.

    Operators (`+ - * / < > == & | ~`) and slices are used as they are.
    """

    name: str
    ns: Any
    functions: dict[str, Any]
    """Functions with slopes of their own, by name."""

    def asarray(self, x: Any, like: Array | None = None) -> Array:
        """Return an array of this framework; a Python number gets the dtype and the device of `like`."""
        raise NotImplementedError

    def default_float(self) -> str:
        raise NotImplementedError

    def cast(self, x: Array, dtype: str) -> Array:
        raise NotImplementedError

    def stop(self, x: Array) -> Array:
        """Return x as a constant: no gradient flows through it."""
        raise NotImplementedError

    def saturate_gradient(self, x: Array, limit: float) -> Array:
        """Return x; its gradient stops at ±limit. NaN stays NaN."""
        raise NotImplementedError

    def broadcast(self, *arrays: Array) -> list[Array]:
        raise NotImplementedError

    def take(self, x: Array, indices: Array, dim: int) -> Array:
        """Return the elements of x at integer `indices` along `dim` (`take_along_axis`)."""
        raise NotImplementedError

    def to_numpy(self, x: Array) -> Any:
        """Return x as a NumPy array, for the argument checks, or None where its values are not known yet (tracing)."""
        raise NotImplementedError

    @property
    def chooses(self) -> bool:
        """Whether `choose` may run one of two ways, for no more than what a look costs."""
        return False

    def choose(self, plain: Plain, formula: Any, arrays: Arrays, static: Static) -> Array:
        """Return the plain form of arrays where it is exact, else `formula(*arrays)`; only where `chooses` is true."""
        return formula(*arrays)

    def size(self, x: Array) -> Any:
        """Return the number of elements of x, in its dtype where it is not known yet; only where `chooses` is true."""
        return math.prod(self.shape(x))

    def is_array(self, x: Any) -> bool:
        return hasattr(x, "dtype")

    def dtype(self, x: Array) -> str:
        return str(x.dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def guarded(self, function: Guarded, *arrays: Array) -> Array:
        """Apply a function with its own slopes to arrays of one shape."""
        return self.functions[function.name](*arrays)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return self.ns.where(condition, a, b)

    def length(self, x: Array, dim: Axis, careful: Callable[[Array], Array]) -> Array:
        """Return the length of x along dim, dimensions kept; `careful(x)` gives it for numbers of any size."""
        return careful(x)

    def sound(self, x: Array) -> bool:
        """Return whether all of x is known to be finite, where knowing costs no wait."""
        return False

    def clip(self, x: Array, limit: float) -> Array:
        """Return x between ±limit, with slope 0 outside. NaN stays NaN."""
        return self.where(x > limit, limit, self.where(x < -limit, -limit, x))

    def lower(self, x: Array, low: float) -> Array:
        """Return max(x, low), with slope 0 below and 1 at `low`. NaN stays NaN."""
        return self.where(x < low, low, x)

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
        """Return the largest element; there is at least one."""
        return self.ns.max(x, axis=axes_of(dim), keepdims=keepdim)

    def amin(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.ns.min(x, axis=axes_of(dim), keepdims=keepdim)

    def any(self, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
        return self.ns.any(x, axis=axes_of(dim), keepdims=keepdim)

    def cumsum(self, x: Array, dim: int) -> Array:
        return self.ns.cumsum(x, dim)

    def argsort(self, x: Array, dim: int) -> Array:
        """Return the indices that sort x upwards."""
        return self.ns.argsort(x, dim)

    def rows(self, x: Array, indices: Array) -> Array:
        """Return the rows x[index] of integer `indices`, of one dimension."""
        n = indices.shape[0]
        return self.take(x, self.broadcast_to(self.reshape(indices, (n, 1)), (n, x.shape[1])), 0)

    def pick(self, x: Array, indices: Array, own: Array, dim: int) -> Array:
        """Return `take`, where it is known as well where each index is: `own`, of the shape of x."""
        return self.take(x, indices, dim)

    def arange(self, n: int, like: Array) -> Array:
        """Return 0 ... n-1 as integers, on the device of `like`."""
        return self.ns.arange(n)

    def concat(self, arrays: Sequence[Array], dim: int) -> Array:
        return self.ns.concatenate(list(arrays), dim)

    def stack(self, arrays: Sequence[Array], dim: int) -> Array:
        return self.ns.stack(list(arrays), dim)

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def scan(self, step: Callable[[Array, Array], Array], first: Array, rows: Array) -> Array:
        """Return all states of state = step(state, row) over the rows of `rows`, stacked, `first` before them."""
        states = [first]
        for index in range(rows.shape[0]):
            states.append(step(states[-1], rows[index]))
        return self.ns.stack(states)


Result = TypeVar("Result")


def bind(
    xp: Backend, formula: Callable[..., Result], names: dict[str, str] | None = None, **defaults: Any
) -> Callable[..., Result]:
    """Return `formula` of the framework `xp`, with the same name, documentation and signature less its first parameter.

    Args:
        xp: the framework.
        formula: a function whose first parameter is a `Backend`.
        names: further names of parameters, the way the framework calls them: {"axis": "dim"}.
        defaults: defaults of the framework, in place of the formula's.
    """
    signature = inspect.signature(formula)
    parameters = list(signature.parameters.values())[1:]
    known = {parameter.name for parameter in parameters}
    defaults = {name: value for name, value in defaults.items() if name in known}
    aliases = {theirs: ours for theirs, ours in (names or {}).items() if ours in known and theirs not in known}

    @functools.wraps(formula)
    def function(*args: Any, **given: Any) -> Result:
        for theirs, ours in aliases.items():
            if theirs in given:
                if ours in given:
                    raise TypeError(f"{formula.__name__}() got both {theirs!r} and {ours!r}: they are the same")
                given[ours] = given.pop(theirs)
        for name, value in defaults.items():
            if name not in given and position[name] >= len(args):
                given[name] = value
        return formula(xp, *args, **given)

    position = {parameter.name: place for place, parameter in enumerate(parameters)}
    shown = [p.replace(default=defaults[p.name]) if p.name in defaults else p for p in parameters]
    shown_function: Any = function
    shown_function.__signature__ = signature.replace(parameters=shown)
    del shown_function.__wrapped__
    if aliases and function.__doc__:
        said = ", ".join(f"`{theirs}` for `{ours}`" for theirs, ours in aliases.items())
        function.__doc__ = f"{function.__doc__.rstrip()}\n\n    Also understood: {said}.\n    "
    return function


def bind_all(xp: Backend, parts: ModuleType, names: dict[str, str], **defaults: Any) -> dict[str, Callable[..., Any]]:
    """Return, by name, the formulas of another framework's module of parts, of the framework `xp`; see `bind`."""
    from whynan.formulas.plain import quick

    formulas = {name: getattr(sys.modules[getattr(parts, name).__module__], name) for name in parts.__all__}
    return {name: bind(xp, quick(formula), names, **defaults) for name, formula in formulas.items()}
