"""Cross-entropies and focal loss."""

import torch
from torch import Tensor
from torch.nn import functional

from whynan.formulas import numbers
from whynan.formulas.losses import classification as formulas
from whynan.formulas.numbers import reduce_loss, weighted
from whynan.torch.backend import (
    NAMES,
    XP,
    documented,
    eager,
    full,
    largest,
    least,
    limits,
    most,
    sound,
    untransformed,
    whole,
)
from whynan.torch.losses.kernels import (
    FOCAL,
    INDEX_ENTROPY,
    PROBABILITY_ENTROPY,
    BinaryCrossEntropy,
    FocalLoss,
    SoftmaxCrossEntropy,
)
from whynan.torch.ops.elementwise import saturated

# Below this many classes PyTorch's log_softmax is faster than its softmax, and is tried first.
FEW = 256


def alike(x: Tensor, y: Tensor) -> bool:
    """Return whether the fast way is open: non-empty, one shape, and a target that needs no gradient."""
    known = isinstance(y, torch.Tensor) and untransformed() and whole(x)
    return known and x.shape == y.shape and eager(y if y.is_floating_point() else x)


def joined(x: Tensor, y: Tensor) -> bool:
    """Return whether a compiler is to join the loops of a loss of x and a target that needs no gradient."""
    known = torch.compiler.is_compiling() and isinstance(y, torch.Tensor) and full(x) and x.numel()
    return bool(known) and x.shape == y.shape and not y.requires_grad


def matched(y: Tensor, x: Tensor) -> Tensor:
    return y if y.dtype == x.dtype else y.to(x.dtype)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


@documented(formulas.binary_cross_entropy)
def binary_cross_entropy(
    p: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    plain = isinstance(p, torch.Tensor) and alike(p, y) and not (validate or label_smoothing or y.requires_grad)
    # PyTorch's kernel has limits of its own, at log p = -100 and p (1 - p) = 1e-12; inside them it is the formula.
    if plain and least(p) > 1e-11 and most(p) < 1 - max(limits(p).eps / 2, 1e-11):
        loss = functional.binary_cross_entropy(p, matched(y, p), weight, reduction=reduction)
        if sound(loss):
            return loss
    if isinstance(p, torch.Tensor) and joined(p, y) and not (validate or label_smoothing):
        loss = PROBABILITY_ENTROPY.apply(p, matched(y, p))
        return reduce_loss(XP, weighted(XP, loss, weight), reduction, NAMES[p.dtype])
    return formulas.binary_cross_entropy(XP, p, y, weight, reduction, label_smoothing, validate)


@documented(formulas.binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if isinstance(x, torch.Tensor) and pos_weight is None and alike(x, y) and not (validate or label_smoothing):
        target = matched(y, x)
        if weight is None:
            loss = BinaryCrossEntropy.apply(x, target, reduction)
        else:
            loss = reduced(BinaryCrossEntropy.apply(x, target, "none") * weight, reduction)
        if sound(loss):
            return loss
    return formulas.binary_cross_entropy_with_logits(XP, x, y, weight, pos_weight, reduction, label_smoothing, validate)


@documented(formulas.cross_entropy)
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    dim: int = 1,
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    plain = isinstance(logits, torch.Tensor) and isinstance(target, torch.Tensor) and not validate and dim == 1
    # A weight of the wrong shape gets the formula's error.
    plain = plain and (weight is None or (logits.dim() > 1 and weight.shape == logits.shape[1:2]))
    if plain and whole(logits) and untransformed() and logits.dim() > 1:
        if target.dim() == logits.dim():
            factors = None if weight is None else weight.to(logits.dtype)
            loss = functional.cross_entropy(
                logits, target.to(logits.dtype), factors, reduction=reduction, label_smoothing=label_smoothing
            )
            if sound(loss):
                return loss
        elif target.dim() == logits.dim() - 1 and target.shape == logits.shape[:1] + logits.shape[2:]:
            loss = indexed_cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing)
            if sound(loss):
                return loss
    if plain and compiled_indices(logits, target) and not label_smoothing:
        return compiled_cross_entropy(logits, target, weight, ignore_index, reduction)
    return formulas.cross_entropy(XP, logits, target, weight, ignore_index, reduction, label_smoothing, dim, validate)


def compiled_indices(logits: Tensor, target: Tensor) -> bool:
    """Return whether a compiler is to join the loops of a loss of class indices."""
    if not (torch.compiler.is_compiling() and full(logits) and logits.dim() > 1 and logits.numel()):
        return False
    return target.shape == logits.shape[:1] + logits.shape[2:] and not target.is_floating_point()


def compiled_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    kept = target != ignore_index
    index = torch.where(kept, target, 0).long()
    own = kept.to(logits.dtype)
    loss = torch.where(kept, INDEX_ENTROPY.apply(logits, index), 0.0)
    if weight is not None:
        own = own * weight.detach().to(logits.dtype)[index]
        loss = saturated(loss * own)
    return reduce_loss(XP, loss, reduction, NAMES[loss.dtype], own.sum())


def indexed_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """Cross-entropy of class indices; not finite where no target counts or the loss overflows."""
    try:
        if label_smoothing:
            factors = None if weight is None else weight.to(logits.dtype)
            return functional.cross_entropy(
                logits,
                target.long(),
                factors,
                ignore_index=ignore_index,
                reduction=reduction,
                label_smoothing=label_smoothing,
            )
        index = target if target.dtype == torch.int64 else target.long()
        if logits.shape[1] < FEW:
            logs = torch.log_softmax(logits, 1)
            known = index.clamp(0, logits.shape[1] - 1).unsqueeze(1)
            if most(logs.detach().gather(1, known)) < -0.1:
                factors = None if weight is None else weight.detach().to(logits.dtype)
                return functional.nll_loss(logs, index, factors, ignore_index=ignore_index, reduction=reduction)
        # The loss of a confident prediction is a small number, which log_softmax has lost in rounding.
        left_out = index == ignore_index
        some = bool(left_out.any())
        loss = SoftmaxCrossEntropy.apply(logits, index.masked_fill(left_out, 0) if some else index)
    except (IndexError, RuntimeError) as error:
        if "out of" not in str(error):
            raise
        numbers.labels(XP, "target", target, logits.shape[1], ignore_index)
        raise
    if weight is not None:
        own = weight.detach().to(logits.dtype)[index.masked_fill(left_out, 0)]
        own = own.masked_fill(left_out, 0.0) if some else own
        loss = loss * own
        return loss.sum() / own.sum() if reduction == "mean" else reduced(loss, reduction)
    if not some:
        return reduced(loss, reduction)
    loss = loss.masked_fill(left_out, 0.0)
    if reduction != "mean":
        return reduced(loss, reduction)
    return loss.sum() / (left_out.numel() - left_out.sum())


@documented(formulas.categorical_cross_entropy)
def categorical_cross_entropy(
    p: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    dim: int = 1,
    validate: bool = False,
) -> Tensor:
    return formulas.categorical_cross_entropy(XP, p, target, weight, ignore_index, reduction, dim, validate)


@documented(formulas.focal_loss)
def focal_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    dim: int = 1,
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    fast = isinstance(logits, torch.Tensor) and not (validate or weight is not None) and gamma == 2
    fast = fast and not (isinstance(target, torch.Tensor) and target.requires_grad)
    fast = fast and whole(logits) and largest(logits) < formulas.FAR_LOGIT
    if (
        fast
        and (alpha is None or 0 <= alpha <= 1)
        and alike(logits, target)
        and not bool((target == ignore_index).any())
    ):
        y = matched(target, logits)
        loss = FocalLoss.apply(logits, y)
        if alpha is not None:
            loss = loss * (y * (2 * alpha - 1) + (1 - alpha))
        loss = reduced(loss, reduction)
        if sound(loss):
            return loss
    if joined(logits, target) and not validate and gamma == 2 and (alpha is None or 0 <= alpha <= 1):
        loss = FOCAL.apply(logits, matched(target, logits), alpha, ignore_index)
        count = (target != ignore_index).to(loss.dtype).sum()
        return reduce_loss(XP, weighted(XP, loss, weight), reduction, NAMES[loss.dtype], count)
    return formulas.focal_loss(XP, logits, target, alpha, gamma, weight, ignore_index, reduction, dim, validate)
