"""Elementwise operations."""

import math
from typing import Any

import torch
from torch import Tensor

from whynan.formulas import elementwise as formulas
from whynan.torch.backend import XP
from whynan.torch.fast import documented, eager, full, largest, least, limits, most, number, smallest, whole
from whynan.torch.ops.kernels import ACOS, ANGLE, ASIN, EXP, POWER, QUOTIENT


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
