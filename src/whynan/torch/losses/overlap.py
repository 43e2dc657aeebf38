"""Losses of overlap."""

import torch
from torch import Tensor

from whynan.formulas import numbers
from whynan.formulas.losses import overlap as formulas
from whynan.formulas.numbers import reduce_loss
from whynan.torch.backend import NAMES, XP, compiled, documented, known, sound, whole
from whynan.torch.losses.classification import matched, reduced
from whynan.torch.losses.kernels import OVERLAP


@documented(formulas.tversky_loss)
def tversky_loss(
    p: Tensor,
    y: Tensor,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    both = isinstance(p, torch.Tensor) and isinstance(y, torch.Tensor) and p.shape == y.shape and p.dim() > 1
    if both and whole(p) and ignore_index is None and not validate and min(alpha, beta, smooth) >= 0:
        y_float = matched(y, p)
        axes = tuple(range(1, p.dim()))
        hit, predicted, wanted = (p * y_float).sum(axes), p.sum(axes), y_float.sum(axes)
        missed = alpha * (predicted - hit) + beta * (wanted - hit)
        whole_sum = hit + missed + smooth
        low, high = missed.detach(), whole_sum.detach()
        # Where next to nothing is missed, the differences of sums cancel; slopes divide by the square of the whole.
        if known(lambda: float(((low > 0.05 * high) & (high > 2.0**-40)).all())) == 1 and sound(missed):
            loss = reduced(missed / whole_sum, reduction)
            if sound(loss):
                return loss
    plain = both and ignore_index is None and not validate and min(alpha, beta, smooth) >= 0
    if plain and compiled(p, y):
        return reduce_loss(XP, OVERLAP.apply(p, y, alpha, beta, smooth), reduction, NAMES[p.dtype])
    return formulas.tversky_loss(XP, p, y, alpha, beta, smooth, ignore_index, reduction, validate)


@documented(formulas.dice_loss)
def dice_loss(
    p: Tensor,
    y: Tensor,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    return tversky_loss(p, y, 0.5, 0.5, smooth / 2, ignore_index, reduction, validate)


@documented(formulas.jaccard_loss)
def jaccard_loss(
    p: Tensor,
    y: Tensor,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    return tversky_loss(p, y, 1.0, 1.0, smooth, ignore_index, reduction, validate)


@documented(formulas.lovasz_softmax_loss)
def lovasz_softmax_loss(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    from_logits: bool = True,
    classes: str = "present",
    reduction: str = "mean",
    dim: int = 1,
    validate: bool = False,
) -> Tensor:
    return formulas.lovasz_softmax_loss(
        XP, logits, target, ignore_index, from_logits, classes, reduction, dim, validate
    )
