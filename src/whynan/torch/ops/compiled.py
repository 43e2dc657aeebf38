"""Reductions under `torch.compile`: PyTorch's own where lengths and spreads are of comfortable size."""

import torch
from torch import Tensor

from whynan.formulas import reductions as formulas
from whynan.formulas.numbers import size_of
from whynan.torch.backend import XP
from whynan.torch.fast import Plain, choice, limits

Arrays = tuple[Tensor, ...]


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
