"""Losses under `torch.compile`: their plain forms where sums and lengths are of comfortable size."""

import torch
from torch import Tensor

from whynan.formulas.losses import overlap, regression, similarity
from whynan.torch.backend import XP
from whynan.torch.choice import Plain, choice
from whynan.torch.fast import limits
from whynan.torch.ops.compiled import within

Arrays = tuple[Tensor, ...]
Tversky = tuple[float, float, float]


def look_at_overlap(arrays: Arrays, static: Tversky) -> Arrays:
    """Return whether enough is missed for differences of sums not to cancel, what is missed, and all."""
    p, y = arrays
    alpha, beta, smooth = static
    axes = tuple(range(1, p.dim()))
    hit = (p * y).sum(axes)
    missed = alpha * (p.sum(axes) - hit) + beta * (y.sum(axes) - hit)
    whole = hit + missed + smooth
    return (missed > 0.05 * whole).all() & within(whole), missed, whole


def overlap_slopes(gradient: Tensor, arrays: Arrays, static: Tversky, missed: Tensor, whole: Tensor) -> Arrays:
    """d(missed / whole): both fall by their weights where the other array is 1."""
    p, y = arrays
    alpha, beta, _ = static
    rest, scale = whole - missed, gradient / (whole * whole)
    shape = (-1, *[1] * (p.dim() - 1))
    fall = ((alpha + beta) * rest + missed) * scale
    return tuple(
        (weight * rest * scale).reshape(shape) - other * fall.reshape(shape)
        for weight, other in ((alpha, y), (beta, p))
    )


OVERLAP = choice(
    "Overlap",
    Plain(
        look_at_overlap,
        lambda arrays, static, missed, whole: missed / whole,
        overlap_slopes,
        lambda arrays, static: overlap.tversky_loss(
            XP, arrays[0], arrays[1], static[0], static[1], static[2], None, "none"
        ),
    ),
    2,
)


def share_of(arrays: Arrays, static: tuple[str]) -> float:
    return 0.5 / arrays[0].numel() if static[0] == "mean" else 0.5


def look_at_divergence(arrays: Arrays, static: tuple[str]) -> Arrays:
    """Return whether the sum is known to its digits (it cancels near the prior), and the sum."""
    mean, log_var = arrays
    doubled = (torch.exp(log_var) + mean * mean - log_var).sum() - mean.numel()
    return (doubled > 0.25 * mean.numel()) & (doubled < limits(mean).max) & (log_var.amax() < 80), doubled


DIVERGENCE = choice(
    "Divergence",
    Plain(
        look_at_divergence,
        lambda arrays, static, doubled: doubled * share_of(arrays, static),
        lambda gradient, arrays, static, doubled: (
            arrays[0] * (gradient * (2 * share_of(arrays, static))),
            (torch.exp(arrays[1]) - 1) * (gradient * share_of(arrays, static)),
        ),
        lambda arrays, static: regression.kl_divergence_normal(XP, arrays[0], arrays[1], None, static[0]),
    ),
    2,
)


def look_at_pairs(arrays: Arrays, static: tuple[float]) -> Arrays:
    distance = torch.linalg.vector_norm(arrays[0] - arrays[1], 2, -1)
    return within(distance), distance


def pair_slopes(gradient: Tensor, arrays: Arrays, static: tuple[float], distance: Tensor) -> Arrays:
    a, b, same = arrays
    missing = torch.relu(static[0] - distance)
    apart = (a - b) * (gradient * (same - (1 - same) * missing / distance)).unsqueeze(-1)
    return apart, -apart, gradient * 0.5 * (distance * distance - missing * missing)


def value_of_pairs(arrays: Arrays, static: tuple[float], distance: Tensor) -> Tensor:
    missing = torch.relu(static[0] - distance)
    return 0.5 * torch.lerp(missing * missing, distance * distance, arrays[2])


PAIRS = choice(
    "Pairs",
    Plain(
        look_at_pairs,
        value_of_pairs,
        pair_slopes,
        lambda arrays, static: similarity.contrastive_loss(
            XP, arrays[0], arrays[1], arrays[2], static[0], None, "none"
        ),
    ),
    3,
)
