"""Into the formulas and out again: dtypes, saturation, sums that do not overflow, reductions, checks of arguments."""

import math
from collections.abc import Callable
from typing import Any

from whynan.formulas.backend import HALF, LIMITS, Array, Axis, Backend

# Sums that overflow are taken again on numbers divided by this power of two. Longer ones than 2^40 there are not.
FAR = 2.0**40
REDUCTIONS = ("mean", "sum", "none")
ORDER = ("float16", "bfloat16", "float32", "float64")


def result_dtype(xp: Backend, *arrays: Any) -> str:
    """Return the dtype of a result: that of the widest array of floats; Python numbers and integers do not count."""
    names = [xp.dtype(x) for x in arrays if xp.is_array(x)]
    floats = {name for name in names if name in ORDER}
    if not floats:
        return xp.default_float()
    if floats == {"float16", "bfloat16"}:
        return "float32"
    return max(floats, key=ORDER.index)


def work_dtype(dtype: str) -> str:
    return "float32" if dtype in HALF else dtype


def lift(xp: Backend, *arrays: Any) -> tuple[list[Array], str]:
    """Return the arrays in the dtype to compute in, and the dtype of the result.

    Gradients on their way back stop at the largest number of the result's dtype, so that none overflows where it is
    rounded to float16.
    """
    dtype = result_dtype(xp, *arrays)
    like = next((x for x in arrays if xp.is_array(x)), None)
    return [lift_to(xp, x, like, dtype) for x in arrays], dtype


def lift_to(xp: Backend, x: Any, like: Array | None, dtype: str) -> Array:
    """Return x in the dtype to compute a result of `dtype` in; its gradient stops at the largest number of its own
    dtype.
    """
    array = xp.asarray(x, like)
    own = xp.dtype(array) if xp.dtype(array) in ORDER else dtype
    return xp.saturate_gradient(xp.cast(array, work_dtype(dtype)), LIMITS[own].max)


def settle(xp: Backend, x: Array, dtype: str) -> Array:
    """Return x in `dtype`, where infinities become its largest number. NaN stays NaN."""
    return xp.cast(clip(xp, x, LIMITS[dtype].max), dtype)


def rounded(xp: Backend, x: Array, dtype: str) -> Array:
    """Return x, which holds no infinities in the dtype that it was computed in, in `dtype`, without infinities."""
    return settle(xp, x, dtype) if dtype in HALF else xp.cast(x, dtype)


def clip(xp: Backend, x: Array, limit: float) -> Array:
    """Return x between ±limit, with slope 0 outside. NaN stays NaN."""
    return xp.clip(x, limit)


def lower(xp: Backend, x: Array, low: float) -> Array:
    """Return max(x, low), with slope 0 below. NaN stays NaN."""
    return xp.lower(x, low)


def larger(xp: Backend, a: Array, b: Array) -> Array:
    return xp.where(a > b, a, b)


def smaller(xp: Backend, a: Array, b: Array) -> Array:
    return xp.where(a < b, a, b)


def limit_of(xp: Backend, x: Array) -> float:
    return LIMITS[xp.dtype(x)].max


def saturated(xp: Backend, x: Array) -> Array:
    """Return x with infinities at the largest number of the dtype that it is computed in."""
    return clip(xp, x, limit_of(xp, x))


def half_square(xp: Backend, x: Array) -> Array:
    """Return x² / 2, at most the largest number."""
    limit = limit_of(xp, x)
    over = xp.abs(x) >= math.sqrt(2) * math.sqrt(limit)
    inside = xp.where(over, 0.0, x)
    return xp.where(over, limit, 0.5 * inside * inside)


def is_finite(xp: Backend, x: Array) -> Array:
    return xp.abs(x) <= limit_of(xp, x)


def size_of(shape: tuple[int, ...], dim: Axis = None) -> int:
    """Return how many elements a reduction over `dim` takes together."""
    if dim is None:
        return math.prod(shape)
    # A list and not a generator: torch.compile does not follow one into math.prod.
    axes = (dim,) if isinstance(dim, int) else dim
    return math.prod([shape[axis] for axis in axes])


def is_empty(xp: Backend, x: Array, dim: Axis = None) -> bool:
    """Return whether a reduction of x over `dim` is known to take nothing together."""
    shape = xp.shape(x)
    axes = range(len(shape)) if dim is None else (dim,) if isinstance(dim, int) else dim
    # In a graph of TensorFlow a size may be a tensor, which is not known yet.
    return any(isinstance(shape[axis], int) and shape[axis] == 0 for axis in axes)


def count_of(xp: Backend, x: Array, dim: Axis = None) -> Array | int:
    """Return how many elements of x a reduction over `dim` takes together; an array where that is not known yet."""
    shape = xp.shape(x)
    if all(isinstance(size, int) for size in shape):
        return size_of(shape, dim)
    return xp.sum(xp.stop(x * 0.0) + 1.0, dim)


def ratio(xp: Backend, a: Array, count: Array | float) -> Array:
    """Return a / count, 0 where there is nothing to count. The count carries no gradient."""
    if isinstance(count, int | float):
        return a / count if count else a * 0.0
    count = xp.stop(count)
    return xp.where(count == 0, a * 0.0, a / xp.where(count == 0, 1.0, count))


def total(xp: Backend, x: Array, dim: Axis = None, keepdim: bool = False, count: Array | float = 1) -> Array:
    """Return the sum of x over `dim`, divided by `count`; at most the largest number, also where the sum is not.

    An empty sum is 0, and so is a sum over a count of 0.
    """
    plain = xp.sum(x, dim, keepdim)
    if xp.sound(plain):
        return saturated(xp, ratio(xp, plain, count))
    fits = is_finite(xp, plain)
    scaled = xp.sum(x * (1 / FAR), dim, keepdim)
    # The branch that is not taken has finite slopes: a sum's are 1.
    result = ratio(xp, xp.where(fits, plain, scaled), count)
    return saturated(xp, xp.where(fits, result, result * FAR))


def average(xp: Backend, x: Array, dim: Axis = None, keepdim: bool = False) -> Array:
    return total(xp, x, dim, keepdim, count=size_of(xp.shape(x), dim))


def reduce_loss(xp: Backend, loss: Array, reduction: str, dtype: str, count: Array | float | None = None) -> Array:
    """Return the loss reduced: "none" as it is, "sum", or "mean" over `count` (all elements where it is not given)."""
    if reduction == "none":
        return settle(xp, loss, dtype)
    if reduction == "sum":
        return settle(xp, total(xp, loss), dtype)
    return settle(xp, total(xp, loss, count=count_of(xp, loss) if count is None else count), dtype)


def weighted(xp: Backend, loss: Array, weight: Any) -> Array:
    """Return weight * loss, at most the largest number."""
    if weight is None:
        return loss
    weight = xp.stop(xp.cast(xp.asarray(weight, loss), xp.dtype(loss)))
    return saturated(xp, loss * weight)


# Sizes beyond the first number of a row are multiplied by the second, those below its inverse by the third.
SCALES = {
    "float32": ((2.0**40, 2.0**-44, 2.0**54), (2.0**84, 2.0**-88, 2.0**110)),
    "float64": ((2.0**400, 2.0**-312, 2.0**350), (2.0**712, 2.0**-624, 2.0**700)),
}


def scale_of(xp: Backend, largest: Array) -> Array:
    """Return the power of two that brings numbers of this size to where their squares neither overflow nor vanish.

    It is 1 for sizes that need none, which leaves the plain formula as it is; a power of two changes no digit. It is
    no further from 1 than needed, so that slopes on their way back, multiplied by it, do not overflow in between.
    """
    size = xp.abs(xp.stop(largest))
    scale = size * 0.0 + 1.0
    for limit, down, up in SCALES[xp.dtype(largest)]:
        scale = xp.where(size > limit, down, xp.where(size < 1 / limit, up, scale))
    return xp.stop(scale)


def flatten_dims(dim: Axis, rank: int) -> tuple[int, ...]:
    """Return the axes of a reduction as numbers from 0, all of them for None."""
    if dim is None:
        return tuple(range(rank))
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    for axis in axes:
        if not -rank <= axis < rank:
            raise ValueError(f"dim: {axis} is no axis of an array with {rank} dimensions")
    return tuple(sorted(axis % rank for axis in axes))


def reduction(value: str) -> None:
    if value not in REDUCTIONS:
        raise ValueError(f'reduction: {value!r} is none of "mean", "sum", "none"')


def positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: must be a finite number above 0, is {value}")


def not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: must be a finite number of at least 0, is {value}")


def within_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: must be in [0, 1], is {value}")


def agree(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return whether two shapes are equal, as far as their sizes are known."""
    sizes = zip(a, b, strict=False)
    return len(a) == len(b) and all(x == y for x, y in sizes if isinstance(x, int) and isinstance(y, int))


def same_shape(xp: Backend, name: str, x: Array, other: str, y: Array) -> None:
    if not agree(xp.shape(x), xp.shape(y)):
        raise ValueError(
            f"{name} has shape {show(xp.shape(x))} and {other} has shape {show(xp.shape(y))}: must be equal"
        )


def boxes(xp: Backend, **named: Array) -> None:
    for name, x in named.items():
        shape = xp.shape(x)
        if not shape or shape[-1] != 4:
            raise ValueError(f"{name}: boxes are (..., 4), as x1, y1, x2, y2; the shape is {show(shape)}")


def show(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"


def finite(xp: Backend, **named: Any) -> None:
    for name, x in named.items():
        look(xp, name, x, lambda values, np: ~np.isfinite(values), "must be finite")


def probabilities(xp: Backend, **named: Any) -> None:
    for name, x in named.items():
        look(xp, name, x, lambda values, np: ~((values >= 0) & (values <= 1)), "must be in [0, 1]")


def labels(xp: Backend, name: str, x: Any, classes: int, ignore_index: int | None) -> None:
    """Raise where an array of class indices holds something that is neither below `classes` nor ignored."""
    also = "" if ignore_index is None else f" or ignore_index={ignore_index}"

    def bad(values: Any, np: Any) -> Any:
        outside = (values < 0) | (values >= classes)
        return outside if ignore_index is None else outside & (values != ignore_index)

    look(xp, name, x, bad, f"must be a class index from 0 to {classes - 1}{also}")


def look(xp: Backend, name: str, x: Any, bad: Callable[[Any, Any], Any], rule: str) -> None:
    """Raise a ValueError that names the argument, the first bad value and its index."""
    values = xp.to_numpy(xp.asarray(x)) if x is not None else None
    if values is None:
        return
    import numpy as np

    found = np.argwhere(bad(values, np))
    if len(found):
        index = tuple(int(i) for i in found[0])
        place = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"{name}: {rule}, is {values[index]}{place}{more}")
