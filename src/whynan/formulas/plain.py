"""Plain forms of formulas, and when they are exact, for frameworks that run one of two ways (`Backend.choose`).

A look costs what the plain form sums up anyway: where its sums are of comfortable size, no element was near an edge.
"""

import functools
import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace as Static
from typing import Any, NamedTuple

from whynan.formulas.backend import LIMITS, Array, Backend
from whynan.formulas.numbers import agree, flatten_dims, limit_of, size_of

Arrays = tuple[Array, ...]


class Plain(NamedTuple):
    """The plain form of a formula of some arrays. `static` holds its other arguments, by name."""

    arrays: tuple[str, ...]
    """The arguments that are arrays; those of floats are of one dtype, which is no half."""
    fits: Callable[[Backend, Arrays, Static], bool]
    """Whether shapes and other arguments allow it; the arrays have elements."""
    look: Callable[[Backend, Arrays, Static], Arrays]
    """Whether the plain form is exact, as an array of one boolean, and what it computes with, the value by itself."""
    value: Callable[..., Array] = lambda xp, arrays, static, value: value
    """(xp, arrays, static, *what look found) -> the value."""
    slopes: Callable[..., Arrays] | None = None
    """(xp, gradient, arrays, static, *what look found) -> the gradient of each array of floats; without it, that of the
    value that look finds is derived."""


def quick(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Return the formula, by its plain form where it has one that is exact."""
    plain = PLAIN.get(formula.__name__)
    if plain is None:
        return formula
    signature = inspect.signature(formula)

    @functools.wraps(formula)
    def function(xp: Any, *args: Any, **given: Any) -> Any:
        try:
            bound = signature.bind(xp, *args, **given)
        except TypeError:
            return formula(xp, *args, **given)
        bound.apply_defaults()
        static = Static(**bound.arguments)
        arrays = tuple(xp.asarray(getattr(static, name), None) for name in plain.arrays)
        if not suits(xp, arrays) or not plain.fits(xp, arrays, static):
            return formula(xp, *args, **given)

        def by_formula(*arrays: Array) -> Any:
            return formula(**bound.arguments | dict(zip(plain.arrays, arrays, strict=True)))

        return xp.choose(plain, by_formula, arrays, static)

    return function


def suits(xp: Any, arrays: Arrays) -> bool:
    """Return whether arrays are of one dtype of floats that is no half, less integers, and have elements."""
    floats = {xp.dtype(x) for x in arrays if "int" not in xp.dtype(x)}
    return xp.chooses and (floats == {"float32"} or floats == {"float64"}) and all(
        xp.shape(x) and 0 not in static_shape(xp, x) for x in arrays)  # fmt: skip


def static_shape(xp: Backend, x: Array) -> list[int]:
    return [size for size in xp.shape(x) if isinstance(size, int)]


def every(xp: Backend, condition: Array) -> Array:
    return ~xp.any(~condition)


def within(x: Array, low: float = 2.0**-40, high: float = 2.0**40) -> Array:
    """Return where x is far from where squares overflow or vanish."""
    return (x > low) & (x < high)


# --- norms and spreads ----------------------------------------------------------------------------------------------


def axes_of(x: Array, static: Static) -> tuple[int, ...]:
    return flatten_dims(static.dim, len(x.shape))


def known_axes(xp: Backend, arrays: Arrays, static: Static) -> bool:
    shape = xp.shape(arrays[0])
    try:
        sizes = [shape[axis] for axis in axes_of(arrays[0], static)]
    except (TypeError, ValueError):
        return False
    return all(isinstance(size, int) for size in sizes) and math.prod(sizes) > getattr(static, "correction", 0)


def look_at_length(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    length = xp.sqrt(xp.sum(arrays[0] * arrays[0], axes_of(arrays[0], static), True))
    return every(xp, within(length)), length


def unit_slopes(xp: Backend, gradient: Array, arrays: Arrays, static: Static, length: Array) -> Arrays:
    (x,) = arrays
    along = xp.sum(gradient * x, axes_of(x, static), True) / (length * length)
    return ((gradient - x * along) / length,)


def look_at_spread(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    (x,) = arrays
    axes = axes_of(x, static)
    count = size_of(x.shape, axes)
    middle = xp.sum(x, axes, True) / count
    deviation = x - middle
    variance = xp.sum(deviation * deviation, axes, True) / (count - static.correction)
    spread = xp.sqrt(variance)
    # Where the spread is of the size of the mean's rounding, the mean has to be taken with more care.
    careful = xp.abs(middle) * (64 * LIMITS[xp.dtype(x)].eps) < spread
    return every(xp, within(variance) & careful), middle, spread


def kept(xp: Backend, x: Array, arrays: Arrays, static: Static) -> Array:
    """Return one number for each spread in the shape that it is asked for."""
    axes = axes_of(arrays[0], static)
    shape = xp.shape(x)
    return x if static.keepdim else xp.reshape(x, tuple(s for axis, s in enumerate(shape) if axis not in axes))


def spread_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, middle: Array, spread: Array | float
) -> Arrays:
    (x,) = arrays
    count = size_of(x.shape, axes_of(x, static)) - static.correction
    return ((x - middle) * (xp.reshape(gradient, xp.shape(middle)) / (spread * count)),)


def standard_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, middle: Array, spread: Array
) -> Arrays:
    (x,) = arrays
    axes = axes_of(x, static)
    count = size_of(x.shape, axes)
    along = xp.sum(gradient * (x - middle), axes, True) / ((count - static.correction) * spread * spread)
    return ((gradient - xp.sum(gradient, axes, True) / count - (x - middle) * along) / spread,)


# --- losses ---------------------------------------------------------------------------------------------------------


def bare(xp: Backend, arrays: Arrays, static: Static) -> bool:
    """Return whether arrays are of one shape, and nothing but a mean or a sum over them is asked for."""
    shapes = [xp.shape(x) for x in arrays]
    return (
        all(agree(shape, shapes[0]) for shape in shapes)
        and static.reduction in ("mean", "sum")
        and not static.validate
        and getattr(static, "weight", None) is None
        and getattr(static, "ignore_index", None) is None
        and not getattr(static, "label_smoothing", 0)
    )


def share_of(xp: Backend, x: Array, static: Static) -> Any:
    """Return what a sum over x is to be multiplied by."""
    return 1 / xp.size(x) if static.reduction == "mean" else 1.0


def is_number(xp: Backend, x: Array) -> Array:
    return xp.abs(x) <= limit_of(xp, x)


PLAIN: dict[str, Plain] = {
    "normalize": Plain(
        ("x",), lambda xp, a, s: s.p == 2 and known_axes(xp, a, s), look_at_length,
        lambda xp, a, s, length: a[0] / length, unit_slopes),
    "std": Plain(
        ("x",), known_axes, look_at_spread, lambda xp, a, s, middle, spread: kept(xp, spread, a, s), spread_slopes),
    "var": Plain(
        ("x",), known_axes, look_at_spread, lambda xp, a, s, middle, spread: kept(xp, spread * spread, a, s),
        lambda xp, g, a, s, middle, spread: spread_slopes(xp, g, a, s, middle, 0.5)),
    "standardize": Plain(
        ("x",), known_axes, look_at_spread, lambda xp, a, s, middle, spread: (a[0] - middle) / spread,
        standard_slopes),
}  # fmt: skip
