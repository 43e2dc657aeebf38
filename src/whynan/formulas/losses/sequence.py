"""Connectionist temporal classification."""

from whynan.formulas import checks
from whynan.formulas.backend import LIMITS, Array, Backend
from whynan.formulas.numbers import clip, lift, ratio, reduce_loss, settle, total

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
    checks.reduction(reduction)
    (log_probs,), dtype = lift(xp, log_probs)
    targets, input_lengths, target_lengths = (xp.asarray(x, None) for x in (targets, input_lengths, target_lengths))
    if len(xp.shape(log_probs)) != 3:
        raise ValueError(f"log_probs has shape {checks.show(xp.shape(log_probs))}: must be (T, N, C)")
    steps, batch, classes = xp.shape(log_probs)
    if len(xp.shape(targets)) != 2 or xp.shape(targets)[0] != batch:
        raise ValueError(f"targets has shape {checks.show(xp.shape(targets))}: must be ({batch}, S)")
    for name, x in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if xp.shape(x) != (batch,):
            raise ValueError(f"{name} has shape {checks.show(xp.shape(x))}: must be ({batch},)")
    if not 0 <= blank < classes:
        raise ValueError(f"blank: must be a class index from 0 to {classes - 1}, is {blank}")
    width = xp.shape(targets)[1]
    if validate:
        checks.finite(xp, log_probs=log_probs)
        checks.labels(xp, "targets", targets, classes, None)
        checks.look(
            xp, "input_lengths", input_lengths, lambda v, np: (v < 0) | (v > steps), f"must be from 0 to {steps}"
        )
        checks.look(
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
