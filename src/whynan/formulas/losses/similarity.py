"""Losses of embeddings, distances, contrastive, InfoNCE, and of sequences, connectionist temporal classification."""

import math

from whynan.formulas import numbers
from whynan.formulas.backend import LIMITS, Array, Backend
from whynan.formulas.losses.classification import entropy_of_index
from whynan.formulas.numbers import (
    clip,
    half_square,
    lift,
    limit_of,
    lower,
    ratio,
    reduce_loss,
    saturated,
    settle,
    total,
    weighted,
)
from whynan.formulas.reductions import direction, p_norm

# The logarithm of the probability of what cannot be. A number and not -inf: the difference of two of it is 0.
NEVER = -1e30


def ctc_loss(
    xp: Backend,
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = True,
    validate: bool = False,
) -> Array:
    """CTC loss (Graves et al., 2006). A target that cannot be (longer than its input) has loss 0 and gradient 0.

    The mean is over the batch, of losses divided by their target's length. An empty batch gives 0 with a live gradient
    graph.

    Args:
        log_probs: logarithms of probabilities, (T, N, C).
        targets: class indices without blanks, padded, (N, S).
        input_lengths: how many of the T steps count, (N,).
        target_lengths: how many of the S targets count, (N,).
        blank: the index of the blank.
        reduction: "mean", "sum" or "none".
        zero_infinity: whether an impossible target has loss 0; otherwise the largest number, with gradient 0 as well.
        validate: raise ValueError for targets and lengths out of range; waits for the device.
    """
    numbers.reduction(reduction)
    (log_probs,), dtype = lift(xp, log_probs)
    targets, input_lengths, target_lengths = (xp.asarray(x, None) for x in (targets, input_lengths, target_lengths))
    if len(xp.shape(log_probs)) != 3:
        raise ValueError(f"log_probs has shape {numbers.show(xp.shape(log_probs))}: must be (T, N, C)")
    steps, batch, classes = xp.shape(log_probs)
    if len(xp.shape(targets)) != 2 or xp.shape(targets)[0] != batch:
        raise ValueError(f"targets has shape {numbers.show(xp.shape(targets))}: must be ({batch}, S)")
    for name, x in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if xp.shape(x) != (batch,):
            raise ValueError(f"{name} has shape {numbers.show(xp.shape(x))}: must be ({batch},)")
    if not 0 <= blank < classes:
        raise ValueError(f"blank: must be a class index from 0 to {classes - 1}, is {blank}")
    width = xp.shape(targets)[1]
    if validate:
        numbers.finite(xp, log_probs=log_probs)
        numbers.labels(xp, "targets", targets, classes, None)
        numbers.look(
            xp, "input_lengths", input_lengths, lambda v, np: (v < 0) | (v > steps), f"must be from 0 to {steps}"
        )
        numbers.look(
            xp, "target_lengths", target_lengths, lambda v, np: (v < 0) | (v > width), f"must be from 0 to {width}"
        )
    if batch == 0 or steps == 0:
        return reduce_loss(xp, xp.sum(log_probs, (0, 2)), reduction, dtype)
    states = 2 * width + 1
    position = xp.reshape(xp.arange(states, targets), (1, states))
    # blank, first target, blank, second target, ..., blank
    extended = xp.broadcast_to(position * 0 + blank, (batch, states))
    if width:
        blanks = targets * 0 + blank
        pairs = xp.reshape(xp.stack([blanks, targets], -1), (batch, 2 * width))
        extended = xp.concat([pairs, blanks[:, :1]], 1)
    before = xp.concat([extended[:, :1] * 0 - 1, extended[:, :1] * 0 - 1, extended[:, :-2]], 1) if width else extended
    skips = (extended != blank) & (extended != before)
    index = xp.broadcast_to(xp.reshape(extended, (1, batch, states)), (steps, batch, states))
    emissions = clip(xp, xp.take(log_probs, index, 2), -NEVER)
    never = xp.stop(emissions[0] * 0.0 + NEVER)
    first = xp.where(xp.broadcast_to(position == 0, (batch, states)), 0.0, never)

    def step(state: Array, emission: Array) -> Array:
        by_one = xp.concat([never[:, :1], state[:, :-1]], 1)
        by_two = never if not width else xp.where(skips, xp.concat([never[:, :2], state[:, :-2]], 1), never)
        return add_logs(xp, state, by_one, by_two) + emission

    history = xp.scan(step, first, emissions)
    at = xp.broadcast_to(xp.reshape(input_lengths, (1, batch, 1)), (1, batch, states))
    final = xp.reshape(xp.take(history, at, 0), (batch, states))
    end = xp.reshape(target_lengths * 2, (batch, 1))
    last = xp.take(final, end, 1)
    has_target = end > 0
    previous = xp.where(has_target, xp.take(final, xp.where(has_target, end - 1, end), 1), NEVER)
    loss = -xp.reshape(add_logs(xp, last, previous, previous * 0.0 + NEVER), (batch,))
    impossible = loss > -NEVER / 10
    loss = xp.where(impossible, 0.0 if zero_infinity else LIMITS[dtype].max, loss)
    if reduction != "mean":
        return reduce_loss(xp, loss, reduction, dtype)
    lengths = xp.cast(xp.where(target_lengths < 1, target_lengths * 0 + 1, target_lengths), xp.dtype(loss))
    return settle(xp, total(xp, ratio(xp, loss, lengths), count=batch), dtype)


def add_logs(xp: Backend, a: Array, b: Array, c: Array) -> Array:
    """log(exp(a) + exp(b) + exp(c)) of finite numbers."""
    largest = xp.stop(xp.where(a > b, a, b))
    largest = xp.where(largest > c, largest, xp.stop(c))
    return largest + xp.log(xp.exp(a - largest) + xp.exp(b - largest) + xp.exp(c - largest))


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
    numbers.reduction(reduction)
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
    numbers.reduction(reduction)
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
    numbers.reduction(reduction)
    numbers.not_negative("margin", margin)
    (a, b), dtype = lift(xp, a, b)
    numbers.same_shape(xp, "a", a, "b", b)
    same = xp.stop(xp.cast(xp.asarray(same, a), xp.dtype(a)))
    shape = rows(xp, "a", a)
    if xp.shape(same) != shape[:-1]:
        raise ValueError(
            f"same has shape {numbers.show(xp.shape(same))}: must be {numbers.show(shape[:-1])}, one for each pair"
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
    numbers.reduction(reduction)
    numbers.positive("temperature", temperature)
    (query, keys), dtype = lift(xp, query, keys)
    a, b = xp.shape(query), xp.shape(keys)
    if len(a) != 2 or len(b) != 2 or a[1] != b[1] or b[0] < a[0]:
        raise ValueError(f"query {numbers.show(a)} and keys {numbers.show(b)}: must be (N, D) and (M, D), with M >= N")
    if validate:
        numbers.finite(xp, query=query, keys=keys)
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
    return reduce_loss(xp, entropy_of_index(xp, logits, xp.arange(a[0], query), 1), reduction, dtype)
