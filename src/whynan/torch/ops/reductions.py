"""Norms, spreads, softmax, masked means; compiled, PyTorch's own where lengths and spreads are of comfortable size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from whynan.formulas import reductions as formulas
from whynan.formulas.numbers import flatten_dims, size_of
from whynan.torch.backend import (
    XP,
    Plain,
    choice,
    compiled,
    documented,
    eager,
    full,
    largest,
    least,
    limits,
    most,
    sound,
    whole,
)
from whynan.torch.ops.elementwise import SOFTMAX

Arrays = tuple[Tensor, ...]
Dim = int | Sequence[int] | None


def within(x: Tensor, low: float = 2.0**-40, high: float = 2.0**40) -> Tensor:
    """Return whether all of x is far from where squares overflow or vanish."""
    return ((x > low) & (x < high)).all()


def look_at_length(arrays: Arrays, static: tuple[tuple[int, ...]]) -> Arrays:
    length = torch.linalg.vector_norm(arrays[0], 2, static[0], True)
    return within(length), length


def unit_slopes(gradient: Tensor, arrays: Arrays, static: tuple[tuple[int, ...]], length: Tensor) -> Arrays:
    unit = arrays[0] / length
    return ((gradient - unit * (gradient * unit).sum(static[0], True)) / length,)


LENGTH = choice(
    "Length",
    Plain(
        look_at_length,
        lambda arrays, static, length: length,
        lambda gradient, arrays, static, length: (arrays[0] * (gradient / length),),
        lambda arrays, static: formulas.norm(XP, arrays[0], static[0], 2.0, True),
    ),
    1,
)
UNIT = choice(
    "Unit",
    Plain(
        look_at_length,
        lambda arrays, static, length: arrays[0] / length,
        unit_slopes,
        lambda arrays, static: formulas.normalize(XP, arrays[0], static[0]),
    ),
    1,
)
Spread = tuple[tuple[int, ...], float]


def look_at_spread(arrays: Arrays, static: Spread) -> Arrays:
    dim, correction = static
    variance, middle = torch.var_mean(arrays[0], dim, correction=correction, keepdim=True)
    spread = variance.sqrt()
    # Where the spread is of the size of the mean's rounding, the mean has to be taken with more care.
    careful = middle.abs().amax() * 64 * limits(arrays[0]).eps < spread.amin()
    return within(variance) & careful, spread, middle


def count_of(x: Tensor, static: Spread) -> float:
    return size_of(tuple(x.shape), static[0]) - static[1]


def standard_slopes(gradient: Tensor, arrays: Arrays, static: Spread, spread: Tensor, middle: Tensor) -> Arrays:
    standard = (arrays[0] - middle) / spread
    along = (gradient * standard).sum(static[0], True) / count_of(arrays[0], static)
    return ((gradient - gradient.mean(static[0], True) - standard * along) / spread,)


DEVIATION = choice(
    "Deviation",
    Plain(
        look_at_spread,
        lambda arrays, static, spread, middle: spread,
        lambda gradient, arrays, static, spread, middle: (
            (arrays[0] - middle) * (gradient / (spread * count_of(arrays[0], static))),
        ),
        lambda arrays, static: formulas.std(XP, arrays[0], static[0], static[1], True),
    ),
    1,
)
VARIANCE = choice(
    "Variance",
    Plain(
        look_at_spread,
        lambda arrays, static, spread, middle: spread * spread,
        lambda gradient, arrays, static, spread, middle: (
            (arrays[0] - middle) * (gradient * (2 / count_of(arrays[0], static))),
        ),
        lambda arrays, static: formulas.var(XP, arrays[0], static[0], static[1], True),
    ),
    1,
)
STANDARD = choice(
    "Standard",
    Plain(
        look_at_spread,
        lambda arrays, static, spread, middle: (arrays[0] - middle) / spread,
        standard_slopes,
        lambda arrays, static: formulas.standardize(XP, arrays[0], *static),
    ),
    1,
)


def comfortable(x: Tensor, low: float = 2.0**-40, high: float = 2.0**40) -> bool:
    """Return whether all of x (not below 0) is far from where squares overflow or vanish."""
    return least(x) > low and most(x) < high


@documented(formulas.norm)
def norm(x: Tensor, dim: Dim = None, p: float = 2.0, keepdim: bool = False) -> Tensor:
    if whole(x) and x.dim() and p in (1, 2):
        result = torch.linalg.vector_norm(x, p, dim, keepdim)
        if comfortable(result):
            return result
    if x.dim() and p == 2 and compiled(x):
        axes = flatten_dims(dim, x.dim())
        return formulas.drop_dims(XP, LENGTH.apply(x, axes), axes, keepdim)
    return formulas.norm(XP, x, dim, p, keepdim)


@documented(formulas.normalize)
def normalize(x: Tensor, dim: Dim = -1, p: float = 2.0) -> Tensor:
    if whole(x) and x.dim() and p == 2:
        length = torch.linalg.vector_norm(x, p, dim, True)
        if comfortable(length):
            return x / length
    if x.dim() and p == 2 and compiled(x):
        return UNIT.apply(x, flatten_dims(dim, x.dim()))
    return formulas.normalize(XP, x, dim, p)


def enough(x: Tensor, dim: Dim, correction: float) -> bool:
    """Return whether there is a spread to take with PyTorch's own kernel."""
    return whole(x) and x.dim() > 0 and size_of(tuple(x.shape), flatten_dims(dim, x.dim())) > correction


def spreads(x: Tensor, dim: Dim, correction: float) -> bool:
    """Return whether both ways to take a spread may be compiled."""
    return compiled(x) and x.dim() > 0 and size_of(tuple(x.shape), flatten_dims(dim, x.dim())) > correction


@documented(formulas.std)
def std(x: Tensor, dim: Dim = None, correction: float = 1.0, keepdim: bool = False) -> Tensor:
    if enough(x, dim, correction):
        result = torch.std(x, dim, correction=correction, keepdim=keepdim)
        if comfortable(result):
            return result
    if spreads(x, dim, correction):
        axes = flatten_dims(dim, x.dim())
        return formulas.drop_dims(XP, DEVIATION.apply(x, axes, correction), axes, keepdim)
    return formulas.std(XP, x, dim, correction, keepdim)


@documented(formulas.var)
def var(x: Tensor, dim: Dim = None, correction: float = 1.0, keepdim: bool = False) -> Tensor:
    if enough(x, dim, correction):
        result = torch.var(x, dim, correction=correction, keepdim=keepdim)
        if comfortable(result):
            return result
    if spreads(x, dim, correction):
        axes = flatten_dims(dim, x.dim())
        return formulas.drop_dims(XP, VARIANCE.apply(x, axes, correction), axes, keepdim)
    return formulas.var(XP, x, dim, correction, keepdim)


@documented(formulas.standardize)
def standardize(x: Tensor, dim: Dim = None, correction: float = 1.0) -> Tensor:
    if enough(x, dim, correction):
        spread, middle = torch.std_mean(x, dim, correction=correction, keepdim=True)
        # Where the spread is of the size of the mean's rounding, the mean has to be taken with more care.
        if comfortable(spread) and largest(middle) * 64 * limits(x).eps < least(spread):
            return (x - middle) / spread
    if spreads(x, dim, correction):
        return STANDARD.apply(x, flatten_dims(dim, x.dim()), correction)
    return formulas.standardize(XP, x, dim, correction)


@documented(formulas.logsumexp)
def logsumexp(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    if x.dtype in (torch.float32, torch.float64) and x.dim() and x.numel():
        axes = tuple(range(x.dim())) if dim is None else dim
        if axes != ():
            return torch.logsumexp(x, axes, keepdim)
    return formulas.logsumexp(XP, x, dim, keepdim)


@documented(formulas.softmax)
def softmax(x: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    if not x.is_floating_point() or not x.dim():
        return formulas.softmax(XP, x, dim, mask)
    if mask is None:
        return torch.softmax(x, dim)
    kept = torch.as_tensor(mask, device=x.device)
    kept = kept if kept.dtype == torch.bool else kept != 0
    if torch.broadcast_shapes(x.shape, kept.shape) != x.shape:
        return formulas.softmax(XP, x, dim, mask)
    left_out = ~kept
    if eager(x):
        result = torch.softmax(x.masked_fill(left_out, -math.inf), dim)
        if sound(result):
            return result
    if torch.compiler.is_compiling() and full(x) and x.numel():
        return SOFTMAX.apply(x, left_out, dim)
    # The lowest number in place of -inf: a row without any is a number then, and 0 after the second fill.
    scores = x.masked_fill(left_out, torch.finfo(x.dtype).min)
    return torch.softmax(scores, dim).masked_fill(left_out, 0.0)


@documented(formulas.masked_mean)
def masked_mean(x: Tensor, mask: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    if whole(x) and isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and dim is None and not keepdim:
        kept = mask.expand(torch.broadcast_shapes(x.shape, mask.shape))
        count = int(kept.sum())
        if count:
            result = torch.where(kept, x, 0.0).sum() / count
            if sound(result):
                return result
    return formulas.masked_mean(XP, x, mask, dim, keepdim)


@documented(formulas.mean)
def mean(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    if whole(x) and x.dim():
        result = torch.mean(x, dim, keepdim)
        if sound(result):
            return result
    return formulas.mean(XP, x, dim, keepdim)
