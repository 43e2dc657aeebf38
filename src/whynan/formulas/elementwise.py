"""Elementwise operations that saturate instead of leaving the numbers."""

import math

from whynan.formulas.backend import LIMITS, Array, Backend, Guarded
from whynan.formulas.numbers import clip, lift, limit_of, lower, rounded, saturated, scale_of, settle


def log(xp: Backend, x: Array) -> Array:
    """Natural logarithm of max(x, smallest normal number).

    Equal to log(x) for all normal x > 0. For x = 0, below 0 and for subnormal x it is the logarithm of the smallest
    normal number (-87.3 in float32, -708.4 in float64, -9.7 in float16), with slope 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return xp.cast(xp.log(lower(xp, x, LIMITS[dtype].tiny)), dtype)


def log1p(xp: Backend, x: Array) -> Array:
    """log(1 + x), accurate near 0; for x <= -1 the logarithm of the smallest normal number, with slope 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    bad = x <= -1
    return xp.cast(xp.where(bad, math.log(LIMITS[dtype].tiny), xp.log1p(xp.where(bad, 0.0, x))), dtype)


def exp(xp: Backend, x: Array) -> Array:
    """Exponential that stops at the dtype's largest number, with slope 0 from there on.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return xp.cast(xp.guarded(EXP[dtype], x), dtype)


def sqrt(xp: Backend, x: Array) -> Array:
    """Square root of max(x, 0). The slope at 0 is that at the smallest normal number, not infinite; below 0 it is 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return xp.cast(xp.guarded(ROOT[dtype], x), dtype)


def acos(xp: Backend, x: Array) -> Array:
    """Arc cosine of x clamped into [-1, 1]. The slope at ±1 is that of the next number inside; outside it is 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return xp.cast(xp.guarded(ACOS[dtype], x), dtype)


def asin(xp: Backend, x: Array) -> Array:
    """Arc sine of x clamped into [-1, 1]. The slope at ±1 is that of the next number inside; outside it is 0.

    Args:
        x: any shape.
    """
    (x,), dtype = lift(xp, x)
    return xp.cast(xp.guarded(ASIN[dtype], x), dtype)


def atan2(xp: Backend, y: Array, x: Array) -> Array:
    """Angle of the point (x, y) in (-π, π]. At the origin the angle is 0 and so is the slope.

    Args:
        y, x: shapes that broadcast together.
    """
    (y, x), dtype = lift(xp, y, x)
    return xp.cast(angle(xp, y, x), dtype)


def angle(xp: Backend, y: Array, x: Array) -> Array:
    return xp.guarded(ANGLE, *xp.broadcast(y, x))


def _scaled(xp: Backend, y: Array, x: Array) -> tuple[Array, Array, Array]:
    # The angle does not change with the scale, and the slopes of scaled coordinates do not overflow.
    scale = scale_of(xp, xp.where(xp.abs(x) > xp.abs(y), xp.abs(x), xp.abs(y)))
    return y * scale, x * scale, scale


def _angle_slopes(xp: Backend, y: Array, x: Array) -> tuple[Array, Array]:
    y, x, scale = _scaled(xp, y, x)
    square = x * x + y * y
    origin = square == 0
    square = xp.where(origin, 1.0, square)
    return saturated(xp, x / square * scale), saturated(xp, -y / square * scale)


# The value at the origin is what the plain function says about signed zeros: ±0 or ±π.
ANGLE = Guarded("angle", lambda xp, y, x: xp.atan2(*_scaled(xp, y, x)[:2]), _angle_slopes)


def _root(dtype: str) -> Guarded:
    """The square root, whose slope stops at that of the smallest normal number of a dtype."""
    tiny = LIMITS[dtype].tiny

    def slopes(xp: Backend, x: Array) -> tuple[Array]:
        return (xp.where(x < 0, 0.0, 0.5 / xp.sqrt(lower(xp, x, tiny))),)

    return Guarded(f"root {dtype}", lambda xp, x: xp.sqrt(lower(xp, x, 0.0)), slopes)


def _arc(name: str, sign: float, dtype: str) -> Guarded:
    """acos or asin, whose slope, ±1 / sqrt(1 - x²), stops at that of the last number inside."""
    inner = 1 - LIMITS[dtype].eps / 2

    def slopes(xp: Backend, x: Array) -> tuple[Array]:
        inside = clip(xp, x, inner)
        return (xp.where(xp.abs(x) > 1, 0.0, sign / xp.sqrt((1 - inside) * (1 + inside))),)

    return Guarded(f"{name} {dtype}", lambda xp, x: getattr(xp, name)(clip(xp, x, 1.0)), slopes)


def _exponential(dtype: str) -> Guarded:
    limits = LIMITS[dtype]

    def value(xp: Backend, x: Array) -> Array:
        return clip(xp, xp.exp(x), limits.max)

    return Guarded(f"exp {dtype}", value, lambda xp, x: (xp.where(x > limits.log_max, 0.0, value(xp, x)),))


EXP = {dtype: _exponential(dtype) for dtype in LIMITS}
ROOT = {dtype: _root(dtype) for dtype in LIMITS}
ACOS = {dtype: _arc("acos", -1.0, dtype) for dtype in LIMITS}
ASIN = {dtype: _arc("asin", 1.0, dtype) for dtype in LIMITS}


def _quotient(xp: Backend, a: Array, b: Array) -> Array:
    zero = b == 0
    return xp.where(zero, 0.0, clip(xp, a / xp.where(zero, 1.0, b), limit_of(xp, a)))


def _quotient_slopes(xp: Backend, a: Array, b: Array) -> tuple[Array, Array]:
    limit = limit_of(xp, a)
    # The value as it is returned: a compiler then divides and stores it once.
    quotient = _quotient(xp, a, b)
    flat = (b == 0) | (xp.abs(quotient) >= limit)
    # In place of 0 another number than in the quotient: a compiler then keeps no array of what all divide by.
    by_a, by_b = 1 / xp.where(b == 0, 2.0, b), -quotient / xp.where(b == 0, 3.0, b)
    return xp.where(flat, 0.0, clip(xp, by_a, limit)), xp.where(flat, 0.0, clip(xp, by_b, limit))


def _inverse(xp: Backend, x: Array) -> Array:
    zero = x == 0
    return xp.where(zero, 0.0, saturated(xp, 1 / xp.where(zero, 1.0, x)))


def _inverse_slope(xp: Backend, x: Array) -> tuple[Array]:
    inverse = _inverse(xp, x)
    return (xp.where(xp.abs(inverse) >= limit_of(xp, x), 0.0, saturated(xp, -inverse * inverse)),)


QUOTIENT = Guarded("quotient", _quotient, _quotient_slopes)
INVERSE = Guarded("inverse", _inverse, _inverse_slope)


def divide(xp: Backend, a: Array, b: Array, fill: float = 0.0) -> Array:
    """a / b in the dtype to compute in; `fill` where b is 0."""
    a, b = xp.broadcast(a, b)
    quotient = xp.guarded(QUOTIENT, a, b)
    return xp.where(b == 0, fill, quotient) if fill else quotient


def div(xp: Backend, a: Array, b: Array, fill: float = 0.0) -> Array:
    """a / b, and `fill` where b is 0, with slope 0 there. Quotients stop at the largest number.

    Args:
        a, b: shapes that broadcast together.
        fill: the value where b is 0.
    """
    (a, b), dtype = lift(xp, a, b)
    return rounded(xp, divide(xp, a, b, fill), dtype)


def reciprocal(xp: Backend, x: Array, fill: float = 0.0) -> Array:
    """1 / x, and `fill` where x is 0. See `div`.

    Args:
        x: any shape.
        fill: the value where x is 0.
    """
    (x,), dtype = lift(xp, x)
    inverse = xp.guarded(INVERSE, x)
    return rounded(xp, xp.where(x == 0, fill, inverse) if fill else inverse, dtype)


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
