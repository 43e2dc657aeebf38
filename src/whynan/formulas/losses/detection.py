"""Losses of detectors, as named terms."""

import math

from whynan.formulas import checks
from whynan.formulas.backend import Array, Backend
from whynan.formulas.losses.classification import bce_of_logits, cross_entropy
from whynan.formulas.losses.regression import huber
from whynan.formulas.numbers import lift, reduce_loss, saturated


def rpn_loss(
    xp: Backend,
    objectness: Array,
    deltas: Array,
    labels: Array,
    delta_targets: Array,
    beta: float = 1 / 9,
    reduction: str = "mean",
    validate: bool = False,
) -> dict[str, Array]:
    """Losses of a region proposal network: {"loss_objectness": ..., "loss_rpn_box_reg": ...} (Ren et al., 2015).

    Objectness is a binary cross-entropy of the anchors that are labelled, box regression a smooth L1 of the positive
    ones, the mean of both
    over all labelled anchors. Where none is (no boxes in the image, all ignored) both are 0 with a live gradient graph.
    What is not labelled or not positive may hold anything in `delta_targets`.

    Args:
        objectness: logits of the anchors, (A,) or any shape with A elements.
        deltas: encoded boxes, (A, 4).
        labels: 1 for an object, 0 for background, below 0 for an anchor that does not count, (A,).
        delta_targets: encoded targets, (A, 4).
        beta: of the smooth L1 loss.
        reduction: "mean", "sum" or "none" (a term for each anchor).
        validate: raise ValueError where labels are not -1, 0 or 1 or an argument is not finite; waits for the device.
    """
    checks.reduction(reduction)
    checks.not_negative("beta", beta)
    (objectness, deltas, delta_targets), dtype = lift(xp, objectness, deltas, delta_targets)
    labels = xp.asarray(labels, None)
    anchors = math.prod(xp.shape(objectness))
    objectness = xp.reshape(objectness, (anchors,))
    if math.prod(xp.shape(labels)) != anchors:
        raise ValueError(f"labels has shape {checks.show(xp.shape(labels))}: objectness has {anchors} anchors")
    labels = xp.reshape(labels, (anchors,))
    for name, x in (("deltas", deltas), ("delta_targets", delta_targets)):
        if xp.shape(x) != (anchors, 4):
            raise ValueError(f"{name} has shape {checks.show(xp.shape(x))}: must be ({anchors}, 4)")
    if validate:
        checks.finite(xp, objectness=objectness, deltas=deltas)
        checks.look(xp, "labels", labels, lambda values, np: ~np.isin(values, (-1, 0, 1)), "must be -1, 0 or 1")
    kept, positive = labels >= 0, labels > 0
    count = xp.sum(xp.cast(kept, xp.dtype(objectness)))
    y = xp.cast(positive, xp.dtype(objectness))
    entropy = bce_of_logits(xp, xp.where(kept, objectness, 0.0), y)
    mask = xp.reshape(positive, (anchors, 1))
    difference = saturated(xp, xp.where(mask, deltas, 0.0) - xp.where(mask, delta_targets, 0.0))
    regression = saturated(xp, xp.sum(huber(xp, difference, beta), (1,)))
    return {
        "loss_objectness": reduce_loss(xp, xp.where(kept, entropy, 0.0), reduction, dtype, count),
        "loss_rpn_box_reg": reduce_loss(xp, regression, reduction, dtype, count),
    }


def fast_rcnn_loss(
    xp: Backend,
    class_logits: Array,
    box_regression: Array,
    labels: Array,
    regression_targets: Array,
    beta: float = 1 / 9,
    reduction: str = "mean",
    validate: bool = False,
) -> dict[str, Array]:
    """Losses of a Fast R-CNN head: {"loss_classifier": ..., "loss_box_reg": ...} (Girshick, 2015).

    A cross-entropy over all proposals, and a smooth L1 of the boxes of those with an object, for the class that they
    have, the mean of both over all proposals that count. Where none does both are 0 with a live gradient graph.

    Args:
        class_logits: (R, C), class 0 is the background.
        box_regression: encoded boxes, (R, 4 C), four for each class, or (R, 4).
        labels: class indices, below 0 for a proposal that does not count, (R,).
        regression_targets: encoded targets, (R, 4).
        beta: of the smooth L1 loss.
        reduction: "mean", "sum" or "none" (a term for each proposal).
        validate: raise ValueError where labels are out of range or an argument is not finite; waits for the device.
    """
    checks.reduction(reduction)
    checks.not_negative("beta", beta)
    (class_logits, box_regression, regression_targets), dtype = lift(
        xp, class_logits, box_regression, regression_targets
    )
    labels = xp.asarray(labels, None)
    shape = xp.shape(class_logits)
    if len(shape) != 2:
        raise ValueError(f"class_logits has shape {checks.show(shape)}: must be (R, C)")
    proposals, classes = shape
    if xp.shape(labels) != (proposals,):
        raise ValueError(f"labels has shape {checks.show(xp.shape(labels))}: must be ({proposals},)")
    if xp.shape(regression_targets) != (proposals, 4):
        raise ValueError(
            f"regression_targets has shape {checks.show(xp.shape(regression_targets))}: must be ({proposals}, 4)"
        )
    if xp.shape(box_regression) not in ((proposals, 4), (proposals, 4 * classes)):
        given = checks.show(xp.shape(box_regression))
        raise ValueError(f"box_regression has shape {given}: must be ({proposals}, 4) or ({proposals}, {4 * classes})")
    if validate:
        checks.finite(xp, class_logits=class_logits, box_regression=box_regression)
        checks.labels(xp, "labels", labels, classes, -1)
    kept, positive = labels >= 0, labels > 0
    count = xp.sum(xp.cast(kept, xp.dtype(class_logits)))
    target = xp.where(kept, labels, labels * 0 - 100)
    entropy = cross_entropy(xp, class_logits, target, reduction="none", dim=1)
    boxes = box_regression
    if xp.shape(box_regression) != (proposals, 4):
        boxes = xp.reshape(box_regression, (proposals, classes, 4))
        index = xp.broadcast_to(
            xp.reshape(xp.where(positive, labels, labels * 0), (proposals, 1, 1)), (proposals, 1, 4)
        )
        boxes = xp.reshape(xp.take(boxes, index, 1), (proposals, 4)) if proposals else xp.sum(boxes, (1,))
    mask = xp.reshape(positive, (proposals, 1))
    difference = saturated(xp, xp.where(mask, boxes, 0.0) - xp.where(mask, regression_targets, 0.0))
    regression = saturated(xp, xp.sum(huber(xp, difference, beta), (1,)))
    return {
        "loss_classifier": reduce_loss(xp, entropy, reduction, dtype, count),
        "loss_box_reg": reduce_loss(xp, regression, reduction, dtype, count),
    }
