"""Elementwise operations; of float32 and float64 in few kernels, with slopes that keep no masks.

To a compiler a mask of booleans between forward and backward costs more than the numbers that it masks. What they
compute stays the formula's; `tests/parts` holds them against it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whynan.formulas import elementwise as formulas
from whynan.torch.backend import XP, documented, eager, full, largest, least, limits, most, number, smallest, whole


def function(name: str, value: Callable[..., Tensor], slopes: Callable[..., tuple[Tensor | None, ...]]) -> Any:
    """Return an autograd function of tensors of one shape and dtype, followed by what is no tensor.

    `value` takes both, `slopes` the gradient and the result before them, and gives the gradient of each tensor, which
    stops at the largest number of the dtype.
    """

    class Function(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*given: Any) -> Any:
            return value(*given)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            tensors = [x for x in inputs if isinstance(x, Tensor)]
            ctx.static = inputs[len(tensors) :]
            ctx.save_for_backward(output, *tensors)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            found = slopes(gradient, *ctx.saved_tensors, *ctx.static)
            return (*(x if x is None else saturated(x) for x in found), *[None] * len(ctx.static))

    Function.__name__ = Function.__qualname__ = name
    return Function


def saturated(x: Tensor) -> Tensor:
    top = limits(x).max
    return x.clamp(-top, top)


def exp_slopes(gradient: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
    return (gradient * torch.where(y >= limits(y).max, 0.0, y),)


EXP = function("Exp", lambda x: torch.exp(x).clamp(max=limits(x).max), exp_slopes)


def angle_slopes(gradient: Tensor, angle: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """x / (x² + y²) and -y / (x² + y²), of which neither square leaves the numbers; 0 at the origin."""
    size = torch.maximum(x.abs(), y.abs())
    size = torch.where(size == 0, 1.0, size)
    flat, high = x / size, y / size
    scale = gradient / (flat * flat + high * high).clamp(min=1)
    return scale * flat / size, -scale * high / size


ANGLE = function("Angle", torch.atan2, angle_slopes)


def quotient(a: Tensor, b: Tensor, fill: float) -> Tensor:
    return torch.where(b == 0, fill, saturated(a / b))


def quotient_slopes(gradient: Tensor, y: Tensor, a: Tensor, b: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    inverse = saturated(1 / torch.where(b == 0, torch.inf, b))
    inverse = torch.where((a * inverse).abs() > limits(b).max, 0.0, inverse)
    return gradient * inverse, gradient * -saturated(a * inverse * inverse)


QUOTIENT = function("Quotient", quotient, quotient_slopes)


def power(x: Tensor, p: float) -> Tensor:
    """x^p for a p that is not 0; a negative base counts as 0 where p is no whole number."""
    base = x if p.is_integer() else x.clamp(min=0)
    value = saturated(torch.pow(base, p))
    return value if p > 0 else torch.where(base == 0, limits(x).max, value)


def power_slopes(gradient: Tensor, y: Tensor, x: Tensor, p: float) -> tuple[Tensor]:
    tiny, whole = limits(x).tiny, p.is_integer()
    if p >= 1:
        base = x if whole else x.clamp(min=0)
    else:
        # The slope near 0 is that at the smallest normal number.
        base = torch.where(x.abs() < tiny, tiny, x) if whole else x.clamp(min=tiny)
    slope = p * torch.pow(base, p - 1)
    if not 1 <= p < 20:  # Up to there the slope of a power that is a number is one.
        slope = saturated(slope)
    # By x and not by the power, which would be computed twice: to a compiler that is cheaper than to keep it.
    log_end = math.log2(limits(x).max) / p
    end = 2.0**log_end if log_end < 1024 else math.inf
    flat = (x.abs() >= end) if p > 0 else (x.abs() <= end)
    if p < 1 and not whole:
        flat = flat | (x < 0)
    return (gradient * torch.where(flat, 0.0, slope),)


POWER = function("Power", power, power_slopes)


def arc(name: str, sign: float) -> Any:
    """acos or asin, whose slope, ±1 / sqrt(1 - x²), stops at that of the last number inside."""

    def slopes(gradient: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
        last = limits(x).eps / 2
        inside = (1 - x) * (1 + x)
        slope = torch.rsqrt(inside.clamp(min=last * (2 - last))) * sign
        return (gradient * torch.where(inside < 0, 0.0, slope),)

    plain = getattr(torch, name)
    return function(name.capitalize(), lambda x: plain(x.clamp(-1, 1)), slopes)


ACOS, ASIN = arc("acos", -1.0), arc("asin", 1.0)


def masked_softmax(x: Tensor, left_out: Tensor, dim: int) -> Tensor:
    """Softmax of what is not left out; 0 for the rest, and in rows without any."""
    weights = torch.exp(x.masked_fill(left_out, -math.inf) - largest_left(x, left_out, dim))
    whole = weights.sum(dim, True)
    return weights / torch.where(whole == 0, 1.0, whole)


def largest_left(x: Tensor, left_out: Tensor, dim: int) -> Tensor:
    largest = x.masked_fill(left_out, -math.inf).amax(dim, True)
    return torch.where(largest.abs() > limits(x).max, 0.0, largest)


def softmax_slopes(gradient: Tensor, y: Tensor, x: Tensor, left_out: Tensor, dim: int) -> tuple[Tensor, None]:
    return y * (gradient - (gradient * y).sum(dim, True)), None


SOFTMAX = function("Softmax", masked_softmax, softmax_slopes)


@documented(formulas.log)
def log(x: Tensor) -> Tensor:
    if eager(x) and least(x) >= limits(x).tiny:
        return torch.log(x)
    return formulas.log(XP, x)


@documented(formulas.log1p)
def log1p(x: Tensor) -> Tensor:
    if eager(x) and least(x) > -1:
        return torch.log1p(x)
    return formulas.log1p(XP, x)


@documented(formulas.exp)
def exp(x: Tensor) -> Tensor:
    if eager(x) and most(x) <= limits(x).log_max:
        return torch.exp(x)
    return EXP.apply(x) if full(x) else formulas.exp(XP, x)


@documented(formulas.sqrt)
def sqrt(x: Tensor) -> Tensor:
    if eager(x) and least(x) >= limits(x).tiny:
        return torch.sqrt(x)
    return formulas.sqrt(XP, x)


@documented(formulas.acos)
def acos(x: Tensor) -> Tensor:
    if whole(x) and largest(x) < 1:
        return torch.acos(x)
    return ACOS.apply(x) if full(x) else formulas.acos(XP, x)


@documented(formulas.asin)
def asin(x: Tensor) -> Tensor:
    if whole(x) and largest(x) < 1:
        return torch.asin(x)
    return ASIN.apply(x) if full(x) else formulas.asin(XP, x)


@documented(formulas.atan2)
def atan2(y: Tensor, x: Tensor) -> Tensor:
    if whole(y, x):
        # The plain slopes divide by x² + y².
        root = math.sqrt(limits(x).max) / 4
        if max(smallest(x), smallest(y)) > 4 / root and largest(x) < root and largest(y) < root:
            return torch.atan2(y, x)
    if full(y, x):
        return ANGLE.apply(*torch.broadcast_tensors(y, x))
    return formulas.atan2(XP, y, x)


@documented(formulas.div)
def div(a: Tensor | float, b: Tensor | float, fill: float = 0.0) -> Tensor:
    tensors = [x for x in (a, b) if not number(x)]
    if tensors and whole(*tensors) and quotient_is_safe(a, b, limits(tensors[0]).max):
        return torch.as_tensor(a / b)
    if tensors and full(*tensors):
        like: Any = tensors[0]
        pair = [torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in (a, b)]
        return QUOTIENT.apply(*torch.broadcast_tensors(*pair), fill)
    return formulas.div(XP, a, b, fill)


def quotient_is_safe(a: Any, b: Any, top: float) -> bool:
    """Return whether a / b and its slopes 1 / b and a / b² are all far from overflow."""
    low = abs(b) if number(b) else smallest(b)
    high = abs(a) if number(a) else largest(a)
    return low > 4 / top and max(high, 1.0) / low / low < top / 4


@documented(formulas.reciprocal)
def reciprocal(x: Tensor, fill: float = 0.0) -> Tensor:
    if whole(x) and quotient_is_safe(1.0, x, limits(x).max):
        return torch.reciprocal(x)
    return formulas.reciprocal(XP, x, fill)


@documented(formulas.pow)
def pow(x: Tensor | float, exponent: Tensor | float) -> Tensor:
    if not number(x) and number(exponent) and whole(x) and power_is_safe(x, float(exponent)):
        return torch.pow(x, exponent)
    if not number(x) and number(exponent) and exponent and full(x):
        return POWER.apply(x, float(exponent))
    return formulas.pow(XP, x, exponent)


def power_is_safe(x: Any, p: float) -> bool:
    """Return whether x^p and its slope p x^(p-1) are finite for all x."""
    top, tiny = limits(x).max, limits(x).tiny
    try:
        if p >= 1:
            high = largest(x)
            return max(high, 1.0) ** p * p < top / 4 and (p.is_integer() or least(x) >= 0)
        low, high = least(x), most(x)
        return low >= tiny and high < top / 4 and all(abs(v) < top / 4 for v in (low**p, high**p, p * low ** (p - 1)))
    except OverflowError:
        return False
