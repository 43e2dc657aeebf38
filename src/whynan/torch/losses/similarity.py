"""Losses of overlap, and of pairs: how alike they are."""

import torch
from torch import Tensor
from torch.nn import functional

from whynan.formulas import numbers
from whynan.formulas.losses import overlap
from whynan.formulas.losses import similarity as formulas
from whynan.formulas.numbers import reduce_loss
from whynan.torch.backend import NAMES, XP, compiled, documented, known, least, most, sound, whole
from whynan.torch.losses.classification import cross_entropy, matched, reduced
from whynan.torch.losses.kernels import OVERLAP, PAIRS
from whynan.torch.ops.reductions import comfortable
from whynan.torch.ops.reductions import normalize as unit


@documented(formulas.ctc_loss)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = True,
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    targets, input_lengths, target_lengths = (torch.as_tensor(x) for x in (targets, input_lengths, target_lengths))
    if targets.dim() == 1:
        targets = padded(targets, target_lengths)
    # The kernel of PyTorch takes its logarithms to be normalized and finite, and then gives 0 for impossible targets.
    plain = whole(log_probs) and log_probs.dim() == 3 and zero_infinity and not validate and targets.numel() > 0
    if plain and least(log_probs) > -1e5 and most(log_probs) < 1e-3:
        loss = functional.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity=True
        )
        if sound(loss):
            return loss
    return formulas.ctc_loss(
        XP, log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, validate
    )


def padded(targets: Tensor, lengths: Tensor) -> Tensor:
    """Return targets that are joined to one vector as (N, S), padded with 0."""
    given = [int(length) for length in lengths.flatten()]
    if sum(given) != len(targets):
        raise ValueError(f"targets has {len(targets)} elements, and target_lengths add up to {sum(given)}")
    rows = targets.new_zeros((len(given), max(given, default=0)))
    at = 0
    for row, length in zip(rows, given, strict=True):
        row[:length] = targets[at : at + length]
        at += length
    return rows


@documented(formulas.pairwise_distance)
def pairwise_distance(a: Tensor, b: Tensor, p: float = 2.0, reduction: str = "none") -> Tensor:
    numbers.reduction(reduction)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and whole(a, b) and p == 2:
        distance = torch.linalg.vector_norm(a - b, 2, -1)
        if comfortable(distance):
            return reduced(distance, reduction)
    return formulas.pairwise_distance(XP, a, b, p, reduction)


@documented(formulas.cosine_distance)
def cosine_distance(a: Tensor, b: Tensor, reduction: str = "none") -> Tensor:
    return formulas.cosine_distance(XP, a, b, reduction)


@documented(formulas.contrastive_loss)
def contrastive_loss(
    a: Tensor,
    b: Tensor,
    same: Tensor,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    numbers.reduction(reduction)
    if whole(a, b) and a.shape == b.shape and margin >= 0 and weight is None and same.shape == a.shape[:-1]:
        distance = torch.linalg.vector_norm(a - b, 2, -1)
        # Halves of squares of this size are far from overflow.
        if comfortable(distance):
            missing = torch.relu(margin - distance)
            loss = 0.5 * torch.lerp(missing * missing, distance * distance, same.detach().to(a.dtype))
            return reduced(loss, reduction)
    pairs = weight is None and margin >= 0 and a.shape == b.shape and a.dim() > 1 and same.shape == a.shape[:-1]
    if pairs and compiled(a, b):
        loss = PAIRS.apply(a, b, same.detach().to(a.dtype), margin)
        return reduce_loss(XP, loss, reduction, NAMES[a.dtype])
    return formulas.contrastive_loss(XP, a, b, same, margin, weight, reduction)


@documented(formulas.info_nce_loss)
def info_nce_loss(
    query: Tensor,
    keys: Tensor,
    temperature: float = 0.07,
    normalize: bool = True,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    shapes = query.dim() == keys.dim() == 2 and query.shape[1] == keys.shape[1] and len(keys) >= len(query)
    joined = shapes and query.numel() and compiled(query, keys)
    if shapes and (joined or whole(query, keys)) and normalize and not validate and 1e-6 < temperature < 1e6:
        # Vectors of length 1 and 0, of which no product leaves the numbers.
        logits = unit(query, 1) @ unit(keys, 1).T / temperature
        loss = cross_entropy(logits, torch.arange(len(query)), reduction=reduction)
        if joined or sound(loss):
            return loss
    return formulas.info_nce_loss(XP, query, keys, temperature, normalize, reduction, validate)


@documented(overlap.tversky_loss)
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
    return overlap.tversky_loss(XP, p, y, alpha, beta, smooth, ignore_index, reduction, validate)


@documented(overlap.dice_loss)
def dice_loss(
    p: Tensor,
    y: Tensor,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    return tversky_loss(p, y, 0.5, 0.5, smooth / 2, ignore_index, reduction, validate)


@documented(overlap.jaccard_loss)
def jaccard_loss(
    p: Tensor,
    y: Tensor,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    return tversky_loss(p, y, 1.0, 1.0, smooth, ignore_index, reduction, validate)


@documented(overlap.lovasz_softmax_loss)
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
    return overlap.lovasz_softmax_loss(XP, logits, target, ignore_index, from_logits, classes, reduction, dim, validate)
