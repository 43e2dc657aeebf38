"""Losses of overlap: Dice, Tversky, Jaccard, Lovász."""

import math

from whynan.formulas import numbers
from whynan.formulas.backend import LIMITS, Array, Backend
from whynan.formulas.elementwise import divide
from whynan.formulas.losses.classification import class_shapes, expand
from whynan.formulas.numbers import FAR, clip, lift, reduce_loss, saturated, settle
from whynan.formulas.reductions import softmax


def tversky_loss(
    xp: Backend,
    p: Array,
    y: Array,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Tversky loss, 1 - TP / (TP + alpha FP + beta FN), for each sample (Salehi et al., 2017).

    TP = sum(p y), FP = sum(p (1 - y)), FN = sum((1 - p) y) over all dimensions but the first; over all of a single
    dimension. A sample with
    neither target nor prediction, or wholly ignored, gives 0, and so does an empty batch, with a live gradient graph.

    Args:
        p: probabilities, (N, ...) or (D,).
        y: targets in [0, 1], of the shape of p.
        alpha: the weight of false positives.
        beta: the weight of false negatives.
        smooth: added above and below the fraction line.
        ignore_index: the target value that does not count.
        reduction: "mean", "sum" or "none", over samples.
        validate: raise ValueError where p or y is outside [0, 1]; waits for the device.
    """
    numbers.reduction(reduction)
    for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        numbers.not_negative(name, value)
    kept = xp.asarray(y, None) != ignore_index if ignore_index is not None else None
    (p, y), dtype = lift(xp, p, y)
    numbers.same_shape(xp, "p", p, "y", y)
    if kept is not None:
        p, y = xp.where(kept, p, 0.0), xp.where(kept, y, 0.0)
    if validate:
        numbers.probabilities(xp, p=p, y=y)
    if len(xp.shape(p)) < 2:
        p, y = xp.reshape(p, (1, math.prod(xp.shape(p)))), xp.reshape(y, (1, math.prod(xp.shape(y))))
    axes = tuple(range(1, len(xp.shape(p))))
    p, y = within(xp, p, axes), within(xp, y, axes)
    hit = xp.sum(p * y, axes)
    # 1 - TP / (TP + ...) is this without the difference, which would cancel where the overlap is good.
    missed = saturated(xp, alpha * xp.sum(p * (1 - y), axes) + beta * xp.sum((1 - p) * y, axes))
    loss = divide(xp, missed, saturated(xp, hit + missed + smooth))
    return reduce_loss(xp, loss, reduction, dtype)


def within(xp: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    """Return x as near to [0, 1] as sums over products of it need to stay numbers; its slope is 1 throughout.

    A slope of 0 out there would have to be noted for each element.
    """
    limit = math.sqrt(LIMITS[xp.dtype(x)].max / (16 * FAR))
    constant = xp.stop(x)
    return xp.stop(clip(xp, constant, limit)) + (x - constant)


def dice_loss(
    xp: Backend,
    p: Array,
    y: Array,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Dice loss, 1 - 2 sum(p y) / (sum(p) + sum(y)), for each sample.

    The sums are over all dimensions but the first; over all of a single dimension. A sample with neither target nor
    prediction, or wholly ignored, gives 0, and so does an empty batch, with a live gradient graph.

    Args:
        p: probabilities, (N, ...) or (D,).
        y: targets in [0, 1], of the shape of p.
        smooth: added above and below the fraction line.
        ignore_index: the target value that does not count.
        reduction: "mean", "sum" or "none", over samples.
        validate: raise ValueError where p or y is outside [0, 1]; waits for the device.
    """
    return tversky_loss(xp, p, y, 0.5, 0.5, smooth / 2, ignore_index, reduction, validate)


def jaccard_loss(
    xp: Backend,
    p: Array,
    y: Array,
    smooth: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Jaccard (soft IoU) loss, 1 - sum(p y) / (sum(p) + sum(y) - sum(p y)), for each sample.

    The sums are over all dimensions but the first; over all of a single dimension. A sample with neither target nor
    prediction, or wholly ignored, gives 0, and so does an empty batch, with a live gradient graph.

    Args:
        p: probabilities, (N, ...) or (D,).
        y: targets in [0, 1], of the shape of p.
        smooth: added above and below the fraction line.
        ignore_index: the target value that does not count.
        reduction: "mean", "sum" or "none", over samples.
        validate: raise ValueError where p or y is outside [0, 1]; waits for the device.
    """
    return tversky_loss(xp, p, y, 1.0, 1.0, smooth, ignore_index, reduction, validate)


def lovasz_softmax_loss(
    xp: Backend,
    logits: Array,
    target: Array,
    ignore_index: int = -100,
    from_logits: bool = True,
    classes: str = "present",
    reduction: str = "mean",
    dim: int = -1,
    validate: bool = False,
) -> Array:
    """Lovász-softmax loss, the convex surrogate of 1 - IoU for each class (Berman et al., 2018), over the whole batch.

    Where no target counts the loss is 0 with a live gradient graph.

    Args:
        logits: scores with a class dimension `dim`; probabilities under `from_logits=False`.
        target: class indices of the shape of the logits without `dim`.
        ignore_index: the index that does not count.
        from_logits: whether to take the softmax first.
        classes: "present" takes the mean over the classes that the target holds, "all" over all.
        reduction: "mean", "sum" or "none" (one number for each class, 0 for one that does not count), over classes.
        dim: the class dimension.
        validate: raise ValueError for labels out of range; waits for the device.
    """
    numbers.reduction(reduction)
    if classes not in ("present", "all"):
        raise ValueError(f'classes: {classes!r} is neither "present" nor "all"')
    (logits,), dtype = lift(xp, logits)
    target = xp.asarray(target, None)
    dim, count = class_shapes(xp, logits, target, dim)
    if len(xp.shape(target)) == len(xp.shape(logits)):
        raise ValueError("target: must be class indices, has a value for each class")
    if validate:
        numbers.labels(xp, "target", target, count, ignore_index)
    p = softmax(xp, logits, dim) if from_logits else clip(xp, logits, 1e18)
    pixels = math.prod(xp.shape(target))
    if pixels == 0 or count == 0:
        nothing = xp.reshape(xp.moveaxis(p, dim, 0), (count, pixels))
        return reduce_loss(xp, xp.sum(nothing, (1,)), reduction, dtype, 0.0)
    p = xp.reshape(xp.moveaxis(p, dim, 0), (count, pixels))
    target = xp.reshape(target, (1, pixels))
    kept = target != ignore_index
    index = expand(xp, xp.arange(count, target), 1)
    own = (xp.broadcast_to(target, (count, pixels)) == xp.broadcast_to(index, (count, pixels))) & kept
    foreground = xp.cast(own, xp.dtype(p))
    # Ignored pixels come last, with error 0: they add nothing.
    errors = xp.where(xp.broadcast_to(kept, (count, pixels)), xp.abs(foreground - p), 0.0)
    order = xp.argsort(xp.stop(-errors), 1)
    errors = xp.take(errors, order, 1)
    slopes = xp.stop(lovasz_slopes(xp, xp.take(foreground, order, 1)))
    loss = xp.sum(errors * slopes, (1,))
    present = xp.any(own, (1,))
    if classes == "all":
        present = present | xp.any(xp.broadcast_to(kept, (count, pixels)), (1,))
    loss = xp.where(present, loss, 0.0)
    if reduction == "none":
        return settle(xp, loss, dtype)
    return reduce_loss(xp, loss, reduction, dtype, xp.sum(xp.cast(present, xp.dtype(loss))))


def lovasz_slopes(xp: Backend, foreground: Array) -> Array:
    """Return the slopes of the Lovász extension of the Jaccard loss, for errors sorted downwards, (C, P)."""
    whole = xp.sum(foreground, (1,), True)
    hit = whole - xp.cumsum(foreground, 1)
    union = whole + xp.cumsum(1 - foreground, 1)
    jaccard = 1 - hit / xp.where(union == 0, 1.0, union)
    return xp.concat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], 1)
