"""Losses of few kernels: cross-entropies as autograd functions, plain forms under `torch.compile`.

The loss of a confident prediction is a small number, which the usual logsumexp(x) - x[target] loses in rounding. What
they compute stays the formula's; `tests/parts` holds them against it.
"""

import math
from typing import Any

import torch
from torch import Tensor

from whynan.formulas.losses import overlap, regression, similarity
from whynan.formulas.reductions import finite_max
from whynan.torch.backend import XP, Plain, choice, limits
from whynan.torch.ops.elementwise import function, saturated
from whynan.torch.ops.reductions import within


class SoftmaxCrossEntropy(torch.autograd.Function):
    """Losses (N, ...) of logits (N, C, ...), class dimension 1, and class indices (N, ...), exact also where they
    are small.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> Tensor:
        at = index.unsqueeze(1)
        p = torch.softmax(logits, 1)
        # logsumexp(x) - x[target]; the logarithm is of a number between 1 / C and 1.
        loss = logits.amax(1).sub_(logits.gather(1, at).squeeze(1)).sub_(p.amax(1).log_())
        own = p.gather(1, at)
        # -log p as -log(1 - the others), where p is close to 1.
        others = p.scatter_(1, at, 0.0).sum(1)
        p.scatter_(1, at, own)
        ctx.save_for_backward(logits, p, at)
        return torch.where(others < 0.1, torch.log1p(others.clamp(max=0.5).neg_()).neg_(), loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        logits, p, at = ctx.saved_tensors
        scale = gradient.unsqueeze(1)
        if torch.is_grad_enabled():
            # What was saved is no function of the logits to autograd: compute it again for a second derivative.
            return (torch.softmax(logits, 1) * scale).scatter_add(1, at, -scale), None
        return torch.mul(p, scale).scatter_add_(1, at, scale.neg()), None


def index_parts(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return exp(x) and the sum of all but the target's, both over the largest exp(x), that of the target, how far its
    logit is below the largest, and where the target is.
    """
    at = index.unsqueeze(1)
    largest = finite_max(XP, logits, (1,))
    below = logits.gather(1, at) - largest
    classes = torch.arange(logits.shape[1], device=logits.device).reshape(-1, *[1] * (logits.dim() - 2))
    own = classes == at
    weights = torch.exp(logits - largest)
    return weights, torch.where(own, 0.0, weights).sum(1, True), torch.exp(below), below, own


def index_entropy(logits: Tensor, index: Tensor) -> Tensor:
    """As `SoftmaxCrossEntropy`, in loops that a compiler joins: log(1 + others / own) where the target is likely."""
    _, others, own, below, _ = index_parts(logits, index)
    near = torch.log1p(others / own.clamp(min=0.1))
    return saturated(torch.where(below > -1, near, torch.log(others + own) - below).squeeze(1))


def index_slopes(gradient: Tensor, loss: Tensor, logits: Tensor, index: Tensor) -> tuple[Tensor, None]:
    weights, others, own, _, at = index_parts(logits, index)
    scale = torch.where(loss >= limits(loss).max, 0.0, gradient).unsqueeze(1) / (others + own)
    return torch.where(at, -others, weights) * scale, None


INDEX_ENTROPY = function("IndexEntropy", index_entropy, index_slopes)


def huber(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    size = saturated((pred - target).abs())
    near = size.clamp(max=beta)
    return near / beta * (size - 0.5 * near)


def huber_slopes(gradient: Tensor, loss: Tensor, pred: Tensor, target: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    difference = pred - target
    slope = torch.where(difference.abs() > limits(pred).max, 0.0, (difference / beta).clamp(-1, 1)) * gradient
    return slope, -slope


HUBER = function("Huber", huber, huber_slopes)


def probability_entropy(p: Tensor, y: Tensor) -> Tensor:
    # No two infinities meet, whatever y is: one of the logarithms is above -1.
    inside, low = p.clamp(0, 1), math.log(limits(p).tiny)
    return (y - 1) * torch.log1p(-inside).clamp(min=low) - y * torch.log(inside).clamp(min=low)


def probability_slopes(gradient: Tensor, loss: Tensor, p: Tensor, y: Tensor) -> tuple[Tensor, None]:
    # The gradient first: what is known before it, a compiler would compute with the value, and keep.
    on, off = gradient * y, gradient * (1 - y)
    on = torch.where((p < limits(p).tiny) | (p > 1), 0.0, on / p)
    return torch.where((p < 0) | (p >= 1), 0.0, off / (1 - p)) - on, None


PROBABILITY_ENTROPY = function("ProbabilityEntropy", probability_entropy, probability_slopes)


def focal_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cross-entropy, 1 - p_t, and the sigmoids of x and -x, none of which cancels."""
    small = torch.exp(-x.abs())
    large = 1 / (1 + small)
    p, q = (torch.where(side, large, small * large) for side in (x > 0, x <= 0))
    entropy = saturated(torch.where(x > 0, x * (1 - y), -x * y) + torch.log1p(small))
    return entropy, p * (1 - y) + q * y, p, q


def balance(y: Tensor, alpha: float | None) -> Tensor | float:
    return 1.0 if alpha is None else y * alpha + (1 - y) * (1 - alpha)


def focal(x: Tensor, y: Tensor, alpha: float | None, ignored: float) -> Tensor:
    """As `FocalLoss`, for all numbers; 0 where y is to be ignored."""
    kept = y.clamp(-1e6, 1e6)
    entropy, miss, _, _ = focal_parts(x, kept)
    return torch.where(y == ignored, 0.0, saturated(entropy * miss * miss * balance(kept, alpha)))


def focal_slopes(
    gradient: Tensor, loss: Tensor, x: Tensor, y: Tensor, alpha: float | None, ignored: float
) -> tuple[Tensor, None]:
    kept = y.clamp(-1e6, 1e6)
    entropy, miss, p, q = focal_parts(x, kept)
    inner = miss * (p * (1 - kept) - q * kept) + entropy * (p * q) * (2 - 4 * kept)
    flat = (y == ignored) | (loss.abs() >= limits(x).max)
    return torch.where(flat, 0.0, inner * miss * balance(kept, alpha) * gradient), None


FOCAL = function("Focal", focal, focal_slopes)


class BinaryCrossEntropy(torch.autograd.Function):
    """Loss of logits x and targets y of one shape and dtype: max(x, 0) - x y + log1p(exp(-|x|)), reduced.

    With the reduction inside, its gradient is one number and not an array of equal ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, reduction: str) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.share = 1 / x.numel() if reduction == "mean" else 1.0
        tail = x.abs().neg_()
        # The threshold is for arguments above 0, where softplus is taken for linear; there are none.
        torch._C._nn.softplus(tail, 1, 20, out=tail)
        # The large terms first: they are equal where the loss is small.
        loss = x.clamp(min=0).addcmul_(x, y, value=-1).add_(tail)
        return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        by_x = by_y = None
        gradient = gradient * ctx.share if ctx.share != 1 else gradient
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():
                by_x = (torch.sigmoid(x) - y) * gradient
            else:
                by_x = torch.sigmoid(x).sub_(y).mul_(gradient)
        if ctx.needs_input_grad[1]:
            by_y = -x * gradient
        return by_x, by_y, None


class FocalLoss(torch.autograd.Function):
    """BCE(x, y) (1 - p_t)² of logits x and targets y of one shape and dtype, |x| not so large that a product
    overflows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(x)
        miss = torch.lerp(p, torch.sigmoid(x.neg()), y)
        tail = torch.nn.functional.softplus(x.abs().neg_())
        entropy = x.clamp(min=0).addcmul_(x, y, value=-1).add_(tail)
        ctx.save_for_backward(x, y, p, miss, entropy)
        return entropy * miss * miss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        x, y, p, miss, entropy = ctx.saved_tensors
        if torch.is_grad_enabled():
            # What was saved is no function of x to autograd: compute it again for a second derivative.
            p = torch.sigmoid(x)
            miss = torch.lerp(p, torch.sigmoid(-x), y)
            entropy = torch.nn.functional.softplus(-x.abs()) + x.clamp(min=0) - x * y
        # miss (miss (p - y) + 2 entropy p (1 - p) (1 - 2 y))
        inner = entropy * (p - p * p) * (2 - 4 * y)
        return torch.addcmul(inner, miss, p - y) * miss * gradient, None


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
