"""Reductions: norms, spreads, softmax and masked means, over nothing, over one element and over zeros."""

from typing import Any

from whynan.formulas.backend import LIMITS, Array, Axis, Backend
from whynan.formulas.elementwise import divide, raise_to
from whynan.formulas.numbers import (
    average,
    flatten_dims,
    half_square,
    is_empty,
    lift,
    lower,
    saturated,
    scale_of,
    settle,
    size_of,
    total,
)


def empty_like_reduced(xp: Backend, x: Array, dim: Axis, keepdim: bool, value: float = 0.0) -> Array:
    """Return what a reduction over nothing gives, with a live gradient graph."""
    return xp.sum(x, dim, keepdim) + value


def unscale(xp: Backend, x: Array, scale: Array) -> Array:
    """Return x / scale, where scale is a power of two, at most the largest number."""
    return saturated(xp, x * (1 / scale))


def euclid(xp: Backend, x: Array, dim: Axis, keepdim: bool = False) -> Array:
    """Length of x along dim, with gradient 0 where it is 0."""
    if is_empty(xp, x, dim):
        return empty_like_reduced(xp, x, dim, keepdim)

    def careful(x: Array) -> Array:
        scale = scale_of(xp, xp.amax(xp.abs(xp.stop(x)), dim, True))
        scaled = x * scale
        squares = xp.sum(scaled * scaled, dim, True)
        zero = squares == 0
        return unscale(xp, xp.where(zero, 0.0, xp.sqrt(xp.where(zero, 1.0, squares))), scale)

    return drop_dims(xp, xp.length(x, dim, careful), dim, keepdim)


def drop_dims(xp: Backend, x: Array, dim: Axis, keepdim: bool) -> Array:
    if keepdim:
        return x
    axes = flatten_dims(dim, len(xp.shape(x)))
    return xp.reshape(x, tuple(size for axis, size in enumerate(xp.shape(x)) if axis not in axes))


def norm(xp: Backend, x: Array, dim: Axis = None, p: float = 2.0, keepdim: bool = False) -> Array:
    """Vector p-norm over `dim` (all dimensions by default), with gradient 0 at the zero vector.

    Neither squares that overflow nor such that vanish change it: it is inaccurate for no length that is a number.

    Args:
        x: any shape.
        dim: the dimension or dimensions to take the norm over.
        p: the order, above 0; `float("inf")` is the largest absolute value.
        keepdim: whether reduced dimensions stay, with size 1.
    """
    if not p > 0:
        raise ValueError(f"p: must be above 0, is {p}")
    (x,), dtype = lift(xp, x)
    return settle(xp, p_norm(xp, x, flatten_dims(dim, len(xp.shape(x))), p, keepdim), dtype)


def p_norm(xp: Backend, x: Array, dim: Axis, p: float, keepdim: bool) -> Array:
    if p == 2:
        return euclid(xp, x, dim, keepdim)
    if is_empty(xp, x, dim):
        return empty_like_reduced(xp, x, dim, keepdim)
    if p == float("inf"):
        return xp.amax(xp.abs(x), dim, keepdim)
    if p == 1:
        return total(xp, xp.abs(x), dim, keepdim)
    scale = scale_of(xp, xp.amax(xp.abs(xp.stop(x)), dim, True))
    scaled = xp.abs(x * scale)
    largest = xp.stop(xp.amax(scaled, dim, True))
    largest = xp.where(largest == 0, 1.0, largest)
    # An element that is 0 has gradient 0; below p = 1 its slope would be the largest number times 0.
    none = scaled == 0
    powers = raise_to(xp, xp.where(none, 1.0, scaled / largest), xp.stop(scaled * 0.0) + p)
    powers = xp.sum(xp.where(none, 0.0, powers), dim, True)
    zero = powers == 0
    root = xp.where(zero, 0.0, raise_to(xp, xp.where(zero, 1.0, powers), xp.stop(powers * 0.0) + 1 / p))
    return drop_dims(xp, saturated(xp, root * xp.stop(unscale(xp, largest, scale))), dim, keepdim)


def normalize(xp: Backend, x: Array, dim: Axis = -1, p: float = 2.0) -> Array:
    """x divided by its p-norm along `dim`: length 1, or 0 where x is 0, with gradient 0 there.

    Args:
        x: any shape.
        dim: the dimension or dimensions that make a vector.
        p: the order of the norm.
    """
    if not p > 0:
        raise ValueError(f"p: must be above 0, is {p}")
    (x,), dtype = lift(xp, x)
    if not xp.shape(x):
        dim = None
    return settle(xp, direction(xp, x, flatten_dims(dim, len(xp.shape(x))), p), dtype)


def direction(xp: Backend, x: Array, dim: Axis, p: float = 2.0) -> Array:
    """x over its norm, 0 where x is 0."""
    if is_empty(xp, x):
        return x * 1.0
    scaled = x * scale_of(xp, xp.amax(xp.abs(xp.stop(x)), dim, True))
    if p != 2:
        return divide(xp, scaled, p_norm(xp, scaled, dim, p, True))
    squares = xp.sum(scaled * scaled, dim, True)
    zero = squares == 0
    return xp.where(zero, 0.0, scaled / xp.sqrt(xp.where(zero, 1.0, squares)))


def centered(xp: Backend, x: Array, dim: Axis) -> tuple[Array, tuple[Array, Array]]:
    """Return x minus its mean along dim, scaled twice, and the scales: exactly 0 where all elements are equal."""
    low, high = xp.stop(xp.amin(x, dim, True)), xp.stop(xp.amax(x, dim, True))
    size = xp.where(xp.abs(low) > xp.abs(high), xp.abs(low), xp.abs(high))
    first = scale_of(xp, size)
    # The rounding of a mean would give equal elements a spread. Subtracting one of them first does not.
    moved = x * first - low * first
    moved = moved - xp.sum(moved, dim, True) / size_of(xp.shape(x), dim)
    second = scale_of(xp, xp.amax(xp.abs(xp.stop(moved)), dim, True))
    # Differences of scaled numbers may be small again; they are not large.
    second = xp.where(second < 1, 1.0, second)
    return moved * second, (second, first)


def spread(xp: Backend, x: Array, dim: Axis, correction: float) -> Array:
    """Return the standard deviation along dim, dimensions kept."""
    count = size_of(xp.shape(x), dim) - correction
    deviation, scales = centered(xp, x, dim)
    squares = xp.sum(deviation * deviation, dim, True)
    zero = squares == 0
    result = xp.where(zero, 0.0, xp.sqrt(xp.where(zero, 1.0, squares) / count))
    for scale in scales:
        result = unscale(xp, result, scale)
    return result


def std(xp: Backend, x: Array, dim: Axis = None, correction: float = 1.0, keepdim: bool = False) -> Array:
    """Standard deviation over `dim` (all dimensions by default), with gradient 0 where it is 0.

    It is 0, with gradient 0, where there are not more elements than `correction`: of one element, or of none.

    Args:
        x: any shape.
        dim: the dimension or dimensions to reduce.
        correction: what to subtract from the number of elements in the divisor.
        keepdim: whether reduced dimensions stay, with size 1.
    """
    (x,), dtype = lift(xp, x)
    axes = flatten_dims(dim, len(xp.shape(x)))
    if is_empty(xp, x) or size_of(xp.shape(x), axes) - correction <= 0:
        return settle(xp, empty_like_reduced(xp, x * 0.0, axes, keepdim), dtype)
    return settle(xp, drop_dims(xp, spread(xp, x, axes, correction), axes, keepdim), dtype)


def var(xp: Backend, x: Array, dim: Axis = None, correction: float = 1.0, keepdim: bool = False) -> Array:
    """Variance over `dim` (all dimensions by default): the square of `std`, at most the largest number.

    Args:
        x: any shape.
        dim: the dimension or dimensions to reduce.
        correction: what to subtract from the number of elements in the divisor.
        keepdim: whether reduced dimensions stay, with size 1.
    """
    (x,), dtype = lift(xp, x)
    axes = flatten_dims(dim, len(xp.shape(x)))
    count = size_of(xp.shape(x), axes) - correction
    if is_empty(xp, x) or count <= 0:
        return settle(xp, empty_like_reduced(xp, x * 0.0, axes, keepdim), dtype)
    deviation, scales = centered(xp, x, axes)
    # In its own scale again: where a square overflows or vanishes now, the variance does.
    for scale in scales:
        deviation = unscale(xp, deviation, scale)
    variance = total(xp, 2.0 * half_square(xp, deviation), axes, True, float(count))
    return settle(xp, drop_dims(xp, variance, axes, keepdim), dtype)


def standardize(xp: Backend, x: Array, dim: Axis = None, correction: float = 1.0) -> Array:
    """(x - mean) / standard deviation over `dim` (all dimensions by default).

    It is 0, with gradient 0, where the standard deviation is: equal elements, one element.

    Args:
        x: any shape.
        dim: the dimension or dimensions to standardize over.
        correction: what to subtract from the number of elements in the divisor of the variance.
    """
    (x,), dtype = lift(xp, x)
    axes = flatten_dims(dim, len(xp.shape(x)))
    count = size_of(xp.shape(x), axes) - correction
    if is_empty(xp, x) or count <= 0:
        return settle(xp, x * 0.0, dtype)
    deviation, _ = centered(xp, x, axes)
    squares = xp.sum(deviation * deviation, axes, True)
    zero = squares == 0
    root = xp.sqrt(xp.where(zero, 1.0, squares) / count)
    return settle(xp, xp.where(zero, 0.0, deviation / root), dtype)


def logsumexp(xp: Backend, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
    """log(sum(exp(x))) over `dim` (all dimensions by default), without overflow.

    Over nothing it is the logarithm of the smallest normal number.

    Args:
        x: any shape.
        dim: the dimension or dimensions to reduce.
        keepdim: whether reduced dimensions stay, with size 1.
    """
    (x,), dtype = lift(xp, x)
    axes = flatten_dims(dim, len(xp.shape(x)))
    if is_empty(xp, x, axes):
        low = xp.log(xp.sum(x, axes, keepdim) * 0.0 + LIMITS[dtype].tiny)
        return settle(xp, low, dtype)
    return settle(xp, drop_dims(xp, log_sum_exp(xp, x, axes), axes, keepdim), dtype)


def log_sum_exp(xp: Backend, x: Array, dim: Axis) -> Array:
    """log(sum(exp(x))) with dimensions kept; there is something to sum."""
    largest = finite_max(xp, x, dim)
    return largest + xp.log(lower(xp, xp.sum(xp.exp(x - largest), dim, True), LIMITS[xp.dtype(x)].tiny))


def finite_max(xp: Backend, x: Array, dim: Axis) -> Array:
    """The largest element as a constant, 0 where it is infinite: what is subtracted before an exponential."""
    largest = xp.stop(xp.amax(x, dim, True))
    return xp.where(xp.abs(largest) > LIMITS[xp.dtype(x)].max, 0.0, largest)


def truth(xp: Backend, mask: Any, like: Array) -> Array:
    """Return a mask as booleans."""
    mask = xp.asarray(mask, like)
    return mask if xp.dtype(mask) == "bool" else mask != 0


def softmax(xp: Backend, x: Array, dim: int = -1, mask: Any = None) -> Array:
    """Softmax along `dim` over the elements where `mask` is true; the others are 0, and so is a row without any.

    Args:
        x: any shape.
        dim: the dimension that sums to 1.
        mask: booleans of a shape that broadcasts to that of x: true takes part.
    """
    (x,), dtype = lift(xp, x)
    if is_empty(xp, x):
        return settle(xp, x * 1.0, dtype)
    axes = flatten_dims(dim if xp.shape(x) else None, len(xp.shape(x)))
    if mask is not None:
        x, mask = xp.broadcast(x, truth(xp, mask, x))
        x = xp.where(mask, x, -LIMITS[xp.dtype(x)].max)
    difference = x - finite_max(xp, x, axes)
    weights = xp.exp(difference)
    if mask is not None:
        weights = xp.where(mask, weights, 0.0)
    whole = xp.sum(weights, axes, True)
    return xp.cast(weights / xp.where(whole == 0, 1.0, whole), dtype)


def masked_mean(xp: Backend, x: Array, mask: Any, dim: Axis = None, keepdim: bool = False) -> Array:
    """Mean of x over `dim` (all dimensions by default) where `mask` is true; 0 where nothing is.

    What is masked has gradient 0, whatever it holds, NaN included.

    Args:
        x: any shape.
        mask: booleans (or 0 and 1) of a shape that broadcasts to that of x: true takes part.
        dim: the dimension or dimensions to reduce.
        keepdim: whether reduced dimensions stay, with size 1.
    """
    (x,), dtype = lift(xp, x)
    x, mask = xp.broadcast(x, truth(xp, mask, x))
    axes = flatten_dims(dim, len(xp.shape(x)))
    count = xp.sum(xp.cast(mask, xp.dtype(x)), axes, keepdim)
    return settle(xp, total(xp, xp.where(mask, x, 0.0), axes, keepdim, count), dtype)


def mean(xp: Backend, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
    """Mean of x over `dim` (all dimensions by default); 0 over nothing, and no overflow on the way.

    Args:
        x: any shape.
        dim: the dimension or dimensions to reduce.
        keepdim: whether reduced dimensions stay, with size 1.
    """
    (x,), dtype = lift(xp, x)
    return settle(xp, average(xp, x, flatten_dims(dim, len(xp.shape(x))), keepdim), dtype)
