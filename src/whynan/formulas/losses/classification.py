"""Cross-entropies and focal loss."""

import math
from typing import Any

from whynan.formulas import numbers
from whynan.formulas.backend import LIMITS, Array, Backend, Guarded
from whynan.formulas.elementwise import raise_to
from whynan.formulas.numbers import clip, lift, lift_to, limit_of, lower, reduce_loss, saturated, total, weighted
from whynan.formulas.reductions import finite_max

# From here on a sigmoid is 0 or 1 in every dtype.
FAR_LOGIT = 1000.0


def binary_cross_entropy(
    xp: Backend,
    p: Array,
    y: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    validate: bool = False,
) -> Array:
    """Binary cross-entropy of probabilities, -(y log p + (1 - y) log(1 - p)), each logarithm of at least the smallest
    normal.

    A p of exactly 0 or 1 on the wrong side costs 87.3 in float32 and has gradient 0: what a sigmoid has rounded away
    cannot be
    learned from. `binary_cross_entropy_with_logits` has no such limit; use it wherever the logits are at hand. p
    outside [0, 1] counts as 0 or 1. An empty target gives 0 with a live gradient graph.

    Args:
        p: probabilities, any shape.
        y: targets in [0, 1], of the shape of p.
        weight: factors of the elements, of a shape that broadcasts to that of p.
        reduction: "mean", "sum" or "none".
        label_smoothing: moves the targets towards 1/2 by this share.
        validate: raise ValueError where p or y is outside [0, 1]; waits for the device.
    """
    numbers.reduction(reduction)
    numbers.within_unit("label_smoothing", label_smoothing)
    (p, y), dtype = lift(xp, p, y)
    numbers.same_shape(xp, "p", p, "y", y)
    if validate:
        numbers.probabilities(xp, p=p, y=y)
    tiny = LIMITS[dtype].tiny
    y = smooth_binary(xp, y, label_smoothing)
    log_p = xp.log(clip_unit(xp, p, tiny))
    # 1 - p is exact enough where p is not near 0; where it is, log1p is.
    over = p >= 1
    log_q = xp.where(over, math.log(tiny), xp.log1p(-xp.where(over | (p < 0), 0.0, p)))
    # Smoothed targets are so far from the largest number that this never leaves the numbers.
    loss = weighted(xp, -(y * log_p + (1 - y) * log_q), weight)
    return reduce_loss(xp, loss, reduction, dtype)


def clip_unit(xp: Backend, p: Array, low: float) -> Array:
    return xp.where(p > 1, 1.0, lower(xp, p, low))


def smooth_binary(xp: Backend, y: Array, label_smoothing: float) -> Array:
    """Return smoothed targets, far from where their product with a logarithm overflows."""
    y = clip(xp, y, LIMITS[xp.dtype(y)].max / 4096)
    return y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y


def binary_cross_entropy_with_logits(
    xp: Backend,
    x: Array,
    y: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    validate: bool = False,
) -> Array:
    """Binary cross-entropy of logits: softplus(x) - x y, without the probability in between.

    Exact for every logit, and the gradient sigmoid(x) - y never vanishes on the wrong side. An empty target gives 0
    with a live gradient graph.

    Args:
        x: logits, any shape.
        y: targets in [0, 1], of the shape of x.
        weight: factors of the elements, of a shape that broadcasts to that of x.
        pos_weight: factor of the positive part, of a shape that broadcasts to that of x.
        reduction: "mean", "sum" or "none".
        label_smoothing: moves the targets towards 1/2 by this share.
        validate: raise ValueError where y is outside [0, 1] or x is not finite; waits for the device.
    """
    numbers.reduction(reduction)
    numbers.within_unit("label_smoothing", label_smoothing)
    (x, y), dtype = lift(xp, x, y)
    numbers.same_shape(xp, "x", x, "y", y)
    if validate:
        numbers.finite(xp, x=x)
        numbers.probabilities(xp, y=y)
    y = smooth_binary(xp, y, label_smoothing)
    if pos_weight is not None:
        pos_weight = xp.stop(xp.cast(xp.asarray(pos_weight, x), xp.dtype(x)))
    return reduce_loss(xp, weighted(xp, bce_of_logits(xp, x, y, pos_weight), weight), reduction, dtype)


def softplus(xp: Backend, x: Array) -> Array:
    """log(1 + exp(x)), with slope sigmoid(x), 1/2 at 0."""
    positive = x > 0
    return xp.where(positive, x, 0.0) + xp.log1p(xp.exp(xp.where(positive, -x, x)))


def bce_of_logits(xp: Backend, x: Array, y: Array, pos_weight: Array | None = None) -> Array:
    """y softplus(-x) + (1 - y) softplus(x), written so that nothing cancels."""
    if pos_weight is None:
        return xp.guarded(ENTROPY, *xp.broadcast(x, y))
    positive = x > 0
    tail = xp.log1p(xp.exp(xp.where(positive, -x, x)))
    on = y * pos_weight
    return saturated(xp, (on + (1 - y)) * tail) + saturated(xp, xp.where(positive, x * (1 - y), -x * on))


def _entropy(xp: Backend, x: Array, y: Array) -> Array:
    tail = xp.log1p(xp.exp(-xp.abs(x)))
    return saturated(xp, xp.where(x > 0, x * (1 - y), -x * y) + tail)


def _entropy_slopes(xp: Backend, x: Array, y: Array) -> tuple[Array, Array]:
    positive = x > 0
    # The other part of the loss is at most log 2, which no number of this size notices.
    over = xp.abs(xp.where(positive, x * (1 - y), x * y)) > limit_of(xp, x)
    small = xp.exp(-xp.abs(x))
    rest = small / (1 + small)
    by_x = xp.where(positive, (1 - y) - rest, rest - y)
    return xp.where(over, 0.0, by_x), xp.where(over, 0.0, -x)


ENTROPY = Guarded("binary cross-entropy", _entropy, _entropy_slopes)


def sigmoid(xp: Backend, x: Array) -> Array:
    """1 / (1 + exp(-x)) with relative accuracy on both sides."""
    small = xp.exp(xp.where(x > 0, -x, x))
    return xp.where(x > 0, 1.0, small) / (1 + small)


def is_class_index(xp: Backend, logits: Array, target: Array) -> bool:
    """Return whether a target holds class indices, not one probability for each class."""
    return len(xp.shape(target)) == len(xp.shape(logits)) - 1


def class_shapes(xp: Backend, logits: Array, target: Array, dim: int) -> tuple[int, int]:
    """Return the class dimension from 0 and the number of classes, or raise."""
    shape = xp.shape(logits)
    if not shape:
        raise ValueError("logits: needs a class dimension, has shape ()")
    if len(shape) == 1:
        dim = 0
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"dim: {dim} is no dimension of logits with shape {numbers.show(shape)}")
    dim = dim % len(shape)
    rest = shape[:dim] + shape[dim + 1 :]
    if not (numbers.agree(xp.shape(target), rest) or numbers.agree(xp.shape(target), shape)):
        wanted = f"{numbers.show(rest)} for class indices or {numbers.show(shape)} for probabilities"
        raise ValueError(
            f"target has shape {numbers.show(xp.shape(target))}: logits {numbers.show(shape)} need {wanted}"
        )
    return dim, shape[dim]


def log_softmax_parts(xp: Backend, logits: Array, dim: int) -> tuple[Array, Array]:
    """Return the logits less the largest one, and the logarithm of the sum of their exponentials."""
    shifted = logits - finite_max(xp, logits, (dim,))
    weights = xp.exp(shifted)
    log_whole = xp.log(lower(xp, xp.sum(weights, (dim,), True), LIMITS[xp.dtype(logits)].tiny))
    # The largest has weight 1. Left out of the sum, the others keep their digits: log1p(others) for log(1 + others).
    top = shifted == 0
    others = xp.stop(xp.sum(xp.where(top, 0.0, weights), (dim,), True))
    ties = xp.sum(xp.where(top, xp.stop(weights), 0.0), (dim,), True)
    value = xp.where(ties > 0, xp.log1p(others + xp.where(ties > 0, ties - 1, 0.0)), xp.stop(log_whole))
    return shifted, value + (log_whole - xp.stop(log_whole))


def _picked(xp: Backend, picked: Array, rest: Array) -> Array:
    own = xp.where(picked == 0, 0.0, picked)
    # The own class at the top: its weight of 1 left out of the sum, the others keep their digits. `picked` is 0 there,
    # and stands for its slope where a framework derives this form itself.
    return xp.where(picked == 0, xp.log1p(rest) - picked * (rest / (1 + rest)), xp.log(xp.exp(own) + rest) - own)


def _picked_slopes(xp: Backend, picked: Array, rest: Array) -> tuple[Array, Array]:
    inverse = 1 / (xp.exp(picked) + rest)
    return -rest * inverse, inverse


PICKED = Guarded("entropy of a class", _picked, _picked_slopes)


def entropy_of_index(xp: Backend, logits: Array, index: Array, dim: int) -> Array:
    """logsumexp(logits) - logits[index] in the shape of the indices, at most the largest number."""
    shape = xp.shape(logits)
    shifted = logits - finite_max(xp, logits, (dim,))
    place = expand(xp, index, dim)
    numbers_ = along(xp, xp.arange(shape[dim], index), len(shape), dim)
    own = place == (xp.cast(numbers_, xp.dtype(index)) if xp.dtype(index) in numbers.ORDER else numbers_)
    rest = xp.sum(xp.where(own, 0.0, xp.exp(shifted)), (dim,), True)
    loss = xp.guarded(PICKED, xp.pick(shifted, place, own, dim), rest)
    return xp.reshape(saturated(xp, loss), xp.shape(index))


def cross_entropy(
    xp: Backend,
    logits: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    dim: int = -1,
    validate: bool = False,
) -> Array:
    """Cross-entropy of logits, logsumexp(logits) - logits[target].

    The mean is over the targets that count, by their class weights. Where none does (an empty batch, all ignored) the
    loss is 0 with a live gradient graph.

    Args:
        logits: scores with a class dimension `dim`, or (C,).
        target: class indices of the shape of the logits without `dim`; or a probability for each class, in the shape
            of the logits.
        weight: (C,), a factor for each class.
        ignore_index: the index that does not count.
        reduction: "mean", "sum" or "none".
        label_smoothing: the share of the target that is spread over all classes.
        dim: the class dimension.
        validate: raise ValueError for labels out of range and logits that are not finite; waits for the device.
    """
    numbers.reduction(reduction)
    numbers.within_unit("label_smoothing", label_smoothing)
    (logits,), dtype = lift(xp, logits)
    target = xp.asarray(target, None)
    dim, classes = class_shapes(xp, logits, target, dim)
    if weight is not None:
        weight = class_weights(xp, weight, logits, classes)
    if validate:
        numbers.finite(xp, logits=logits)
    if not is_class_index(xp, logits, target):
        if validate:
            numbers.probabilities(xp, target=target)
        loss, count = soft_cross_entropy(xp, logits, target, weight, label_smoothing, dim)
        return reduce_loss(xp, loss, reduction, dtype, count)
    if validate:
        numbers.labels(xp, "target", target, classes, ignore_index)
    kept = target != ignore_index
    index = xp.where(kept, target, target * 0)
    own = xp.cast(kept, xp.dtype(logits))
    if weight is not None:
        # A class that is out of range is an error in the framework's own words, or in ours under `validate`.
        own = own * xp.reshape(xp.take(weight, xp.reshape(index, (-1,)), 0), xp.shape(index))
    if classes == 0:
        return reduce_loss(xp, xp.sum(logits, (dim,)), reduction, dtype, 0.0)
    loss = entropy_of_index(xp, logits, index, dim)
    loss = xp.where(kept, loss, 0.0) * own if weight is not None else xp.where(kept, loss, 0.0)
    loss = saturated(xp, loss)
    if label_smoothing:
        shifted, lse = log_softmax_parts(xp, logits, dim)
        spread = smoothing_part(xp, shifted, xp.reshape(lse, xp.shape(index)), weight, dim, classes)
        loss = (1 - label_smoothing) * loss + label_smoothing * xp.where(kept, spread, 0.0)
    return reduce_loss(xp, loss, reduction, dtype, xp.sum(own))


def expand(xp: Backend, x: Array, dim: int) -> Array:
    shape = xp.shape(x)
    return xp.reshape(x, shape[:dim] + (1,) + shape[dim:])


def along(xp: Backend, weight: Array, rank: int, dim: int) -> Array:
    """Return (C,) as an array that broadcasts along the class dimension."""
    return xp.reshape(weight, tuple(-1 if axis == dim else 1 for axis in range(rank)))


def class_weights(xp: Backend, weight: Any, logits: Array, classes: int) -> Array:
    weight = xp.stop(xp.cast(xp.asarray(weight, logits), xp.dtype(logits)))
    if xp.shape(weight) != (classes,):
        raise ValueError(f"weight has shape {numbers.show(xp.shape(weight))}: must be ({classes},), one for each class")
    return weight


def smoothing_part(xp: Backend, shifted: Array, lse: Array, weight: Array | None, dim: int, classes: int) -> Array:
    """The mean over classes of -log softmax, by the class weights."""
    terms = saturated(xp, expand(xp, lse, dim) - shifted)
    if weight is not None:
        terms = saturated(xp, terms * along(xp, weight, len(xp.shape(shifted)), dim))
    return total(xp, terms, (dim,), count=float(classes))


def soft_cross_entropy(
    xp: Backend, logits: Array, target: Array, weight: Array | None, label_smoothing: float, dim: int
) -> tuple[Array, float | None]:
    """Return the loss for each element with a probability for each class, and the count of its mean, None for all."""
    classes = xp.shape(logits)[dim]
    target = smooth_binary(xp, lift_to(xp, target, logits, xp.dtype(logits)), 0.0)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / max(classes, 1)
    if classes == 0:
        return xp.sum(logits, (dim,)), 0.0
    shifted, lse = log_softmax_parts(xp, logits, dim)
    terms = saturated(xp, lse - shifted)
    if weight is not None:
        terms = saturated(xp, terms * along(xp, weight, len(xp.shape(logits)), dim))
    loss = total(xp, saturated(xp, terms * target), (dim,))
    return loss, None


def categorical_cross_entropy(
    xp: Backend,
    p: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    dim: int = -1,
    validate: bool = False,
) -> Array:
    """Cross-entropy of probabilities, -log p[target], the logarithm of at least the smallest normal number.

    `cross_entropy` on logits is better wherever they are at hand: a softmax that has rounded to 0 has gradient 0.
    Where no target counts the loss is 0 with a live gradient graph.

    Args:
        p: probabilities with a class dimension `dim`, or (C,).
        target: class indices of the shape of p without `dim`; or a probability for each class, in the shape of p.
        weight: (C,), a factor for each class.
        ignore_index: the index that does not count.
        reduction: "mean", "sum" or "none".
        dim: the class dimension.
        validate: raise ValueError for labels out of range and p outside [0, 1]; waits for the device.
    """
    numbers.reduction(reduction)
    (p,), dtype = lift(xp, p)
    target = xp.asarray(target, None)
    dim, classes = class_shapes(xp, p, target, dim)
    if validate:
        numbers.probabilities(xp, p=p)
    low = LIMITS[dtype].tiny
    if weight is not None:
        weight = class_weights(xp, weight, p, classes)
    if not is_class_index(xp, p, target):
        terms = -xp.log(clip_unit(xp, p, low))
        if weight is not None:
            terms = saturated(xp, terms * along(xp, weight, len(xp.shape(p)), dim))
        target = smooth_binary(xp, lift_to(xp, target, p, xp.dtype(p)), 0.0)
        return reduce_loss(xp, total(xp, saturated(xp, terms * target), (dim,)), reduction, dtype)
    if validate:
        numbers.labels(xp, "target", target, classes, ignore_index)
    if classes == 0:
        return reduce_loss(xp, xp.sum(p, (dim,)), reduction, dtype, 0.0)
    kept = target != ignore_index
    index = xp.where(kept, target, target * 0)
    own = xp.cast(kept, xp.dtype(p))
    loss = -xp.log(clip_unit(xp, xp.reshape(xp.take(p, expand(xp, index, dim), dim), xp.shape(index)), low))
    if weight is not None:
        own = own * xp.reshape(xp.take(weight, xp.reshape(index, (-1,)), 0), xp.shape(index))
        loss = saturated(xp, loss * own)
    return reduce_loss(xp, xp.where(kept, loss, 0.0), reduction, dtype, xp.sum(own))


def focal_loss(
    xp: Backend,
    logits: Array,
    target: Array,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    dim: int = -1,
    validate: bool = False,
) -> Array:
    """Focal loss, alpha_t (1 - p_t)^gamma times the cross-entropy (Lin et al., 2017), from logits.

    With targets of the shape of the logits it is the one of sigmoids: alpha for positives, 1 - alpha for negatives.
    With class
    indices it is the one of a softmax, and alpha is a factor of all. 1 - p_t is computed without cancellation. Where no
    target counts the loss is 0 with a live gradient graph.

    Args:
        logits: any shape, or with a class dimension `dim`.
        target: values in [0, 1] of the shape of the logits; or class indices of that shape without `dim`.
        alpha: the balance, in [0, 1], or None for none.
        gamma: the focus, at least 0; 0 is the cross-entropy.
        weight: factors of the elements, or (C,) for class indices.
        ignore_index: the target that does not count, in both forms.
        reduction: "mean", "sum" or "none".
        dim: the class dimension.
        validate: raise ValueError for targets out of range; waits for the device.
    """
    numbers.reduction(reduction)
    numbers.not_negative("gamma", gamma)
    if alpha is not None:
        numbers.within_unit("alpha", alpha)
    (logits,), dtype = lift(xp, logits)
    target = xp.asarray(target, None)
    kept = target != ignore_index
    if numbers.agree(xp.shape(target), xp.shape(logits)):
        y = xp.where(kept, lift_to(xp, target, logits, xp.dtype(logits)), 0.0)
        if validate:
            numbers.probabilities(xp, target=y)
        y = smooth_binary(xp, y, 0.0)
        loss = sigmoid_focal(xp, logits, y, alpha, gamma)
        loss = xp.where(kept, weighted(xp, loss, weight), 0.0)
        return reduce_loss(xp, loss, reduction, dtype, xp.sum(xp.cast(kept, xp.dtype(logits))))
    dim, classes = class_shapes(xp, logits, target, dim)
    if validate:
        numbers.labels(xp, "target", target, classes, ignore_index)
    if classes == 0:
        return reduce_loss(xp, xp.sum(logits, (dim,)), reduction, dtype, 0.0)
    index = xp.where(kept, target, target * 0)
    entropy = entropy_of_index(xp, logits, index, dim)
    # Far away the factor is 1, and its slope would be 0 times the largest number.
    far = entropy > FAR_LOGIT
    loss = focus(xp, xp.where(far, 1.0, -xp.expm1(-xp.where(far, 0.0, entropy))), gamma) * entropy
    own = xp.cast(kept, xp.dtype(logits))
    if weight is not None:
        weight = class_weights(xp, weight, logits, classes)
        own = own * xp.reshape(xp.take(weight, xp.reshape(index, (-1,)), 0), xp.shape(index))
        loss = saturated(xp, loss * own)
    loss = xp.where(kept, loss if alpha is None else alpha * loss, 0.0)
    return reduce_loss(xp, loss, reduction, dtype, xp.sum(own))


def focus(xp: Backend, miss: Array, gamma: float) -> Array:
    """miss^gamma for miss in [0, 1]."""
    if gamma == 0:
        return miss * 0.0 + 1.0
    if gamma in (1, 2):
        return miss if gamma == 1 else miss * miss
    return raise_to(xp, miss, xp.stop(miss * 0.0) + gamma)


def sigmoid_focal(xp: Backend, x: Array, y: Array, alpha: float | None, gamma: float) -> Array:
    y = clip(xp, y, 1e6)
    miss = sigmoid(xp, x) * (1 - y) + sigmoid(xp, -x) * y
    miss = xp.where(xp.abs(x) > FAR_LOGIT, xp.stop(miss), miss)
    loss = saturated(xp, focus(xp, miss, gamma) * bce_of_logits(xp, x, y))
    return loss if alpha is None else saturated(xp, (alpha * y + (1 - alpha) * (1 - y)) * loss)
