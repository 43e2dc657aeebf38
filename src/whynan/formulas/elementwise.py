"""Elementwise operations that saturate instead of leaving the numbers."""

from typing import Any

from whynan.formulas.backend import LIMITS, Array, Backend, Guarded
from whynan.formulas.numbers import clip, lift, limit_of, lower, scale_of, settle


def log(xp: Backend, x: Array) -> Array:
    """Natural logarithm of max(x, smallest normal number).

    Equal to log(x) for all normal x > 0. For x = 0, below 0 and for subnormal x it is the logarithm of the smallest
    normal number (-87.3 in float32, -708.4 in float64, -9.7 in float16), with slope 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return settle(xp, xp.log(lower(xp, x, LIMITS[dtype].tiny)), dtype)


def log1p(xp: Backend, x: Array) -> Array:
    """log(1 + x), accurate near 0; for x <= -1 the logarithm of the smallest normal number, with slope 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    bad = x <= -1
    low = xp.log(x * 0.0 + LIMITS[dtype].tiny)
    return settle(xp, xp.where(bad, xp.stop(low), xp.log1p(xp.where(bad, 0.0, x))), dtype)


def exp(xp: Backend, x: Array) -> Array:
    """Exponential that stops at the dtype's largest number, with slope 0 from there on.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    limits = LIMITS[dtype]
    over = x > limits.log_max
    return settle(xp, xp.where(over, limits.max, xp.exp(xp.where(over, 0.0, x))), dtype)


def sqrt(xp: Backend, x: Array) -> Array:
    """Square root of max(x, 0). The slope at 0 is that at the smallest normal number, not infinite; below 0 it is 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return settle(xp, root(xp, x, LIMITS[dtype].tiny), dtype)


def root(xp: Backend, x: Array, low: float) -> Array:
    """Square root of max(x, 0), with the slope of `low` below `low`."""
    # The value comes from x itself; the slope from x moved up to `low`, without cutting the gradient off there.
    moved = x + xp.stop(xp.where(x < low, low - x, 0.0))
    slope = xp.sqrt(xp.where(x < 0, 1.0, moved))
    return xp.stop(xp.sqrt(lower(xp, x, 0.0))) + (slope - xp.stop(slope))


def acos(xp: Backend, x: Array) -> Array:
    """Arc cosine of x clamped into [-1, 1]. The slope at ±1 is that of the next number inside; outside it is 0.

    Args:
        x: any shape.
    """
    return arc(xp, x, xp.acos)


def asin(xp: Backend, x: Array) -> Array:
    """Arc sine of x clamped into [-1, 1]. The slope at ±1 is that of the next number inside; outside it is 0.

    Args:
        x: any shape.
    """
    return arc(xp, x, xp.asin)


def arc(xp: Backend, x: Array, function: Any) -> Array:
    (x,), dtype = lift(xp, x)
    inner = 1 - LIMITS[dtype].eps / 2
    value = function(xp.stop(clip(xp, x, 1.0)))
    moved = x + xp.stop(clip(xp, x, inner) - x)
    slope = function(xp.where(xp.abs(x) > 1, 0.0, moved))
    return settle(xp, xp.stop(value) + (slope - xp.stop(slope)), dtype)


def atan2(xp: Backend, y: Array, x: Array) -> Array:
    """Angle of the point (x, y) in (-π, π]. At the origin the angle is 0 and so is the slope.

    Args:
        y, x: shapes that broadcast together.
    """
    (y, x), dtype = lift(xp, y, x)
    return settle(xp, angle(xp, y, x), dtype)


def angle(xp: Backend, y: Array, x: Array) -> Array:
    y, x = xp.broadcast(y, x)
    # The angle does not change with the scale, and the slopes of scaled coordinates do not overflow.
    scale = scale_of(xp, xp.where(xp.abs(x) > xp.abs(y), xp.abs(x), xp.abs(y)))
    origin = (x == 0) & (y == 0)
    flat = xp.where(origin, 1.0, x * scale)
    # The value at the origin keeps what the plain function says about signed zeros: ±0 or ±π.
    return xp.where(origin, xp.stop(xp.atan2(xp.stop(y), xp.stop(x))), xp.atan2(y * scale, flat))


def _quotient(xp: Backend, a: Array, b: Array) -> Array:
    return clip(xp, a / b, limit_of(xp, a))


def _quotient_slopes(xp: Backend, a: Array, b: Array) -> tuple[Array, Array]:
    limit = limit_of(xp, a)
    quotient = a / b
    over = xp.abs(quotient) > limit
    inverse = clip(xp, 1 / b, limit)
    return xp.where(over, 0.0, inverse), xp.where(over, 0.0, clip(xp, -clip(xp, quotient, limit) * inverse, limit))


QUOTIENT = Guarded("quotient", _quotient, _quotient_slopes)


def divide(xp: Backend, a: Array, b: Array, fill: float = 0.0) -> Array:
    """a / b in the dtype to compute in; `fill` where b is 0."""
    a, b = xp.broadcast(a, b)
    bad = b == 0
    return xp.where(bad, fill, xp.guarded(QUOTIENT, a, xp.where(bad, 1.0, b)))


def div(xp: Backend, a: Array, b: Array, fill: float = 0.0) -> Array:
    """a / b, and `fill` where b is 0, with slope 0 there. Quotients stop at the largest number.

    Args:
        a, b: shapes that broadcast together.
        fill: the value where b is 0.
    """
    (a, b), dtype = lift(xp, a, b)
    return settle(xp, divide(xp, a, b, fill), dtype)


def reciprocal(xp: Backend, x: Array, fill: float = 0.0) -> Array:
    """1 / x, and `fill` where x is 0. See `div`.

    Args:
        x: any shape.
        fill: the value where x is 0.
    """
    (x,), dtype = lift(xp, x)
    return settle(xp, divide(xp, xp.stop(x * 0.0) + 1.0, x, fill), dtype)


def _power(xp: Backend, x: Array, p: Array) -> Array:
    whole = xp.floor(p) == p
    # Outside the domain (a negative base, a fractional exponent) the base is 0. The absolute value and the rounded
    # exponent are for machines that take a subnormal number for 0 when they compare it, but not in a power.
    base = xp.where((x < 0) & ~whole, 0.0, xp.where(whole, x, xp.abs(x)))
    pole = (base == 0) & (p < 0)
    value = xp.raw_power(xp.where(pole, 1.0, base), xp.where(whole, xp.floor(p), p))
    return clip(xp, xp.where(pole, limit_of(xp, x), value), limit_of(xp, x))


def _power_slopes(xp: Backend, x: Array, p: Array) -> tuple[Array, Array]:
    limits = LIMITS[xp.dtype(x)]
    value = _power(xp, x, p)
    whole = xp.floor(p) == p
    flat = ((x < 0) & ~whole) | (xp.abs(value) >= limits.max) | (p == 0)
    # Near 0 the slope of a power below 1 is the one at the smallest normal number.
    near = (xp.abs(x) < limits.tiny) & (p < 1)
    base = xp.where(flat, 1.0, xp.where(near, limits.tiny, x))
    slope = clip(xp, p * clip(xp, xp.raw_power(base, p - 1), limits.max), limits.max)
    positive = (x > 0) & ~flat
    by_exponent = clip(xp, value * xp.log(xp.where(positive, x, 1.0)), limits.max)
    # x^0 is 1 for all x, but its slope in p is log(x).
    at_zero = (p == 0) & (x > 0)
    by_exponent = xp.where(at_zero, xp.log(xp.where(at_zero, x, 1.0)), by_exponent)
    return xp.where(flat, 0.0, slope), xp.where(positive | at_zero, by_exponent, 0.0)


POWER = Guarded("power", _power, _power_slopes)
GUARDED = (QUOTIENT, POWER)


def raise_to(xp: Backend, x: Array, p: Array) -> Array:
    """x to the power p in the dtype to compute in."""
    x, p = xp.broadcast(x, p)
    return xp.guarded(POWER, x, p)


def pow(xp: Backend, x: Array, exponent: Array | float) -> Array:
    """x to the power `exponent`, at most the largest number.

    The slope at 0 of powers below 1 is that at the smallest normal number. A negative base with a fractional exponent,
    where the plain function is NaN, counts as 0; 0 to a negative power is the largest number, with slope 0.

    Args:
        x: any shape.
        exponent: a number, or a shape that broadcasts with that of x.
    """
    (x, exponent), dtype = lift(xp, x, exponent)
    return settle(xp, raise_to(xp, x, exponent), dtype)
