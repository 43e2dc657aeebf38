"""Losses of embeddings: distances, contrastive, InfoNCE."""

import math

from whynan.formulas import checks
from whynan.formulas.backend import Array, Backend
from whynan.formulas.losses.classification import log_softmax_parts
from whynan.formulas.numbers import clip, half_square, lift, limit_of, lower, reduce_loss, saturated, weighted
from whynan.formulas.reductions import direction, p_norm


def rows(xp: Backend, name: str, x: Array) -> tuple[int, ...]:
    shape = xp.shape(x)
    if not shape:
        raise ValueError(f"{name}: needs a dimension of features, has shape ()")
    return shape


def pairwise_distance(xp: Backend, a: Array, b: Array, p: float = 2.0, reduction: str = "none") -> Array:
    """p-norm of a - b along the last dimension, with gradient 0 where a and b are equal.

    Args:
        a, b: (..., D).
        p: the order of the norm, above 0.
        reduction: "none", "mean" or "sum". The mean over no rows is 0 with a live gradient graph.
    """
    checks.reduction(reduction)
    if not p > 0:
        raise ValueError(f"p: must be above 0, is {p}")
    (a, b), dtype = lift(xp, a, b)
    a, b = xp.broadcast(a, b)
    shape = rows(xp, "a", a)
    return reduce_loss(xp, p_norm(xp, saturated(xp, a - b), (len(shape) - 1,), p, False), reduction, dtype)


def cosine_distance(xp: Backend, a: Array, b: Array, reduction: str = "none") -> Array:
    """1 - cosine of the angle between a and b along the last dimension; 1, with gradient 0, where one of them is 0.

    Computed as |u - v|² / 2 of the unit vectors where they are close, which does not cancel.

    Args:
        a, b: (..., D).
        reduction: "none", "mean" or "sum". The mean over no rows is 0 with a live gradient graph.
    """
    checks.reduction(reduction)
    (a, b), dtype = lift(xp, a, b)
    a, b = xp.broadcast(a, b)
    axis = (len(rows(xp, "a", a)) - 1,)
    u, v = direction(xp, a, axis), direction(xp, b, axis)
    cosine = xp.sum(u * v, axis)
    # The unit vectors are rounded; only close ones gain from the square.
    close = cosine > 0.5
    gap = xp.sum((u - v) * (u - v), axis)
    return reduce_loss(xp, xp.where(close, 0.5 * gap, 1 - cosine), reduction, dtype)


def contrastive_loss(
    xp: Backend,
    a: Array,
    b: Array,
    same: Array,
    margin: float = 1.0,
    weight: Array | None = None,
    reduction: str = "mean",
) -> Array:
    """Contrastive loss of pairs (Hadsell et al., 2006): d² / 2 for equal ones, max(margin - d, 0)² / 2 for others.

    d is the Euclidean distance, whose gradient at 0 is 0. No pairs give 0 with a live gradient graph.

    Args:
        a, b: (..., D).
        same: 1 where a pair belongs together, 0 where not, (...).
        margin: how far apart others are to be, at least 0.
        weight: factors of the pairs, (...).
        reduction: "mean", "sum" or "none".
    """
    checks.reduction(reduction)
    checks.not_negative("margin", margin)
    (a, b), dtype = lift(xp, a, b)
    checks.same_shape(xp, "a", a, "b", b)
    same = xp.stop(xp.cast(xp.asarray(same, a), xp.dtype(a)))
    shape = rows(xp, "a", a)
    if xp.shape(same) != shape[:-1]:
        raise ValueError(
            f"same has shape {checks.show(xp.shape(same))}: must be {checks.show(shape[:-1])}, one for each pair"
        )
    distance = p_norm(xp, saturated(xp, a - b), (len(shape) - 1,), 2.0, False)
    missing = lower(xp, margin - distance, 0.0)
    together, apart = half_square(xp, distance), 0.5 * missing * missing
    loss = saturated(xp, same * together) + saturated(xp, (1 - same) * apart)
    return reduce_loss(xp, weighted(xp, saturated(xp, loss), weight), reduction, dtype)


def info_nce_loss(
    xp: Backend,
    query: Array,
    keys: Array,
    temperature: float = 0.07,
    normalize: bool = True,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """InfoNCE (van den Oord et al., 2018): each query is to find the key of its own row among all.

    A vector of zeros has cosine 0 with all others and gradient 0. Quotients by a small temperature stop at the largest
    number. No rows give 0 with a live gradient graph.

    Args:
        query: (N, D).
        keys: (M, D) with M >= N: row i belongs to query i; further rows are negatives.
        temperature: divides the similarities, above 0.
        normalize: whether similarities are cosines; else scalar products.
        reduction: "mean", "sum" or "none".
        validate: raise ValueError where an argument is not finite; waits for the device.
    """
    checks.reduction(reduction)
    checks.positive("temperature", temperature)
    (query, keys), dtype = lift(xp, query, keys)
    a, b = xp.shape(query), xp.shape(keys)
    if len(a) != 2 or len(b) != 2 or a[1] != b[1] or b[0] < a[0]:
        raise ValueError(f"query {checks.show(a)} and keys {checks.show(b)}: must be (N, D) and (M, D), with M >= N")
    if validate:
        checks.finite(xp, query=query, keys=keys)
    if a[0] == 0:
        return reduce_loss(xp, xp.sum(query, (1,)) + 0.0 * xp.sum(clip(xp, keys, 1.0)), reduction, dtype)
    if normalize:
        # Slopes of 1 / temperature stop where those of a division by a tiny length still have room.
        room = math.sqrt(limit_of(xp, query))
        query, keys = (xp.saturate_gradient(direction(xp, x, (1,)), room) for x in (query, keys))
    else:
        bound = math.sqrt(1e38 / max(a[1], 1))
        query, keys = clip(xp, query, bound), clip(xp, keys, bound)
    logits = saturated(xp, xp.matmul(query, xp.moveaxis(keys, 0, 1)) * min(1 / temperature, 1e38))
    shifted, lse = log_softmax_parts(xp, logits, 1)
    own = xp.reshape(xp.arange(a[0], query), (a[0], 1))
    loss = saturated(xp, xp.reshape(lse - xp.take(shifted, own, 1), (a[0],)))
    return reduce_loss(xp, loss, reduction, dtype)
