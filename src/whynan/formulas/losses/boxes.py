"""Boxes: intersection over union and its relatives, encoding and decoding, degenerate ones included; detectors."""

import math
from typing import Any, NamedTuple

from whynan.formulas import numbers
from whynan.formulas.backend import LIMITS, Array, Backend
from whynan.formulas.elementwise import angle, divide
from whynan.formulas.losses.classification import bce_of_logits, cross_entropy
from whynan.formulas.losses.regression import huber
from whynan.formulas.numbers import (
    clip,
    is_empty,
    larger,
    lift,
    lift_to,
    lower,
    reduce_loss,
    saturated,
    scale_of,
    settle,
    smaller,
    weighted,
)
from whynan.formulas.plain import quick

BOX_ARGUMENTS = """An empty batch gives 0 with a live gradient graph.

    Args:
        boxes: (..., 4), as x1, y1, x2, y2.
        targets: of the shape of boxes.
        weight: factors of the boxes, (...).
        reduction: "mean", "sum" or "none".
        validate: raise ValueError where a coordinate is not finite, or x2 < x1 or y2 < y1; waits for the device.
    """


class Pair(NamedTuple):
    """Measures of pairs of boxes, in a scale in which no square overflows."""

    overlap: Array
    union: Array
    width: Array
    height: Array
    target_width: Array
    target_height: Array
    hull_width: Array
    hull_height: Array
    dx: Array
    dy: Array

    def iou(self, xp: Backend) -> Array:
        return divide(xp, self.overlap, self.union)


def measure(xp: Backend, boxes: Array, targets: Array) -> Pair:
    """Measure pairs of boxes (..., 4). A box whose corners are the wrong way round has width or height 0."""
    both = xp.concat([xp.abs(xp.stop(boxes)), xp.abs(xp.stop(targets))], -1)
    scale = scale_of(xp, xp.amax(both, (-1,), True)) if not is_empty(xp, both) else 1.0
    boxes, targets = boxes * scale, targets * scale
    ax1, ay1, ax2, ay2 = (boxes[..., i] for i in range(4))
    bx1, by1, bx2, by2 = (targets[..., i] for i in range(4))
    width, height = lower(xp, ax2 - ax1, 0.0), lower(xp, ay2 - ay1, 0.0)
    target_width, target_height = lower(xp, bx2 - bx1, 0.0), lower(xp, by2 - by1, 0.0)
    inner_width = lower(xp, smaller(xp, ax2, bx2) - larger(xp, ax1, bx1), 0.0)
    inner_height = lower(xp, smaller(xp, ay2, by2) - larger(xp, ay1, by1), 0.0)
    overlap = inner_width * inner_height
    return Pair(
        overlap=overlap,
        union=width * height + target_width * target_height - overlap,
        width=width,
        height=height,
        target_width=target_width,
        target_height=target_height,
        hull_width=lower(xp, larger(xp, ax2, bx2) - smaller(xp, ax1, bx1), 0.0),
        hull_height=lower(xp, larger(xp, ay2, by2) - smaller(xp, ay1, by1), 0.0),
        dx=0.5 * (ax1 + ax2) - 0.5 * (bx1 + bx2),
        dy=0.5 * (ay1 + ay2) - 0.5 * (by1 + by2),
    )


def box_loss(
    xp: Backend, kind: str, boxes: Array, targets: Array, weight: Array | None, reduction: str, validate: bool
) -> Array:
    numbers.reduction(reduction)
    (boxes, targets), dtype = lift(xp, boxes, targets)
    numbers.boxes(xp, boxes=boxes, targets=targets)
    numbers.same_shape(xp, "boxes", boxes, "targets", targets)
    if validate:
        numbers.finite(xp, boxes=boxes, targets=targets)
        for name, x in (("boxes", boxes), ("targets", targets)):
            numbers.look(xp, name, x, turned, "must have x1 <= x2 and y1 <= y2")
    loss = KINDS[kind](xp, measure(xp, boxes, targets))
    return reduce_loss(xp, weighted(xp, loss, weight), reduction, dtype)


def turned(values: Any, np: Any) -> Any:
    """Mark the far corner of each box that lies before the near one."""
    bad = values[..., 2:] < values[..., :2]
    return np.concatenate([np.zeros_like(bad), bad], axis=-1)


def iou_term(xp: Backend, pair: Pair) -> Array:
    """1 - IoU, without the difference: it would cancel where boxes nearly agree."""
    empty = pair.union == 0
    return xp.where(empty, 1.0, divide(xp, pair.union - pair.overlap, pair.union))


def giou_term(xp: Backend, pair: Pair) -> Array:
    hull = pair.hull_width * pair.hull_height
    return iou_term(xp, pair) + divide(xp, hull - pair.union, hull)


def diou_term(xp: Backend, pair: Pair) -> Array:
    diagonal = pair.hull_width * pair.hull_width + pair.hull_height * pair.hull_height
    return iou_term(xp, pair) + divide(xp, pair.dx * pair.dx + pair.dy * pair.dy, diagonal)


def ciou_term(xp: Backend, pair: Pair) -> Array:
    # atan(w / h) as the angle of (h, w), which a height of 0 does not break.
    difference = angle(xp, pair.target_width, pair.target_height) - angle(xp, pair.width, pair.height)
    aspect = (4 / math.pi**2) * difference * difference
    share = xp.stop(divide(xp, aspect, iou_term(xp, pair) + aspect))
    return diou_term(xp, pair) + share * aspect


KINDS = {"iou": iou_term, "giou": giou_term, "diou": diou_term, "ciou": ciou_term}


def iou_loss(
    xp: Backend,
    boxes: Array,
    targets: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """1 - IoU of pairs of boxes. Two boxes without area have IoU 0."""
    return box_loss(xp, "iou", boxes, targets, weight, reduction, validate)


def giou_loss(
    xp: Backend,
    boxes: Array,
    targets: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """1 - generalized IoU of pairs of boxes (Rezatofighi et al., 2019). A hull without area adds 0."""
    return box_loss(xp, "giou", boxes, targets, weight, reduction, validate)


def diou_loss(
    xp: Backend,
    boxes: Array,
    targets: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """1 - distance IoU of pairs of boxes (Zheng et al., 2020). Two boxes in one point have distance 0."""
    return box_loss(xp, "diou", boxes, targets, weight, reduction, validate)


def ciou_loss(
    xp: Backend,
    boxes: Array,
    targets: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """1 - complete IoU of pairs of boxes (Zheng et al., 2020). A box without height has the aspect of a horizontal
    line.
    """
    return box_loss(xp, "ciou", boxes, targets, weight, reduction, validate)


for _function in (iou_loss, giou_loss, diou_loss, ciou_loss):
    _function.__doc__ = f"{_function.__doc__}\n\n    {BOX_ARGUMENTS}"


# The width of a decoded box is at most 1000 / 16 times that of its reference, as in Detectron.
LARGEST_LOG = math.log(1000.0 / 16)


def sides(xp: Backend, boxes: Array, least: float) -> tuple[Array, Array, Array, Array]:
    """Return width, height (at least `least`) and centre of boxes."""
    width, height = saturated(xp, boxes[..., 2] - boxes[..., 0]), saturated(xp, boxes[..., 3] - boxes[..., 1])
    x, y = boxes[..., 0] * 0.5 + boxes[..., 2] * 0.5, boxes[..., 1] * 0.5 + boxes[..., 3] * 0.5
    return lower(xp, width, least), lower(xp, height, least), x, y


def encode_boxes(
    xp: Backend,
    boxes: Array,
    references: Array,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    min_size: float | None = None,
) -> Array:
    """Encode boxes as offsets from references: (dx / w, dy / h, log(w' / w), log(h' / h)) times the weights.

    Widths and heights count as at least `min_size`, so that a degenerate box has a logarithm and a degenerate
    reference divides nothing by 0.

    Args:
        boxes: (..., 4), as x1, y1, x2, y2.
        references: anchors or proposals, of the shape of boxes.
        weights: factors of the four offsets.
        min_size: the smallest width and height; the smallest normal number where it is not given.
    """
    (boxes, references), dtype = lift(xp, boxes, references)
    numbers.boxes(xp, boxes=boxes, references=references)
    numbers.same_shape(xp, "boxes", boxes, "references", references)
    least = max(LIMITS[dtype].tiny, min_size or 0.0)
    width, height, x, y = sides(xp, boxes, least)
    reference_width, reference_height, reference_x, reference_y = sides(xp, references, least)
    offsets = [
        divide(xp, saturated(xp, x - reference_x), reference_width),
        divide(xp, saturated(xp, y - reference_y), reference_height),
        log_ratio(xp, width, reference_width),
        log_ratio(xp, height, reference_height),
    ]
    return settle(xp, xp.stack([saturated(xp, o * w) for o, w in zip(offsets, weights, strict=True)], -1), dtype)


def log_ratio(xp: Backend, a: Array, b: Array) -> Array:
    """log(a / b) for a, b > 0; as a difference where the quotient is no normal number."""
    limits = LIMITS[xp.dtype(a)]
    quotient = xp.stop(a / b)
    plain = (quotient > limits.tiny) & (quotient < limits.max)
    ratio = divide(xp, xp.where(plain, a, 1.0), xp.where(plain, b, 1.0))
    return xp.where(plain, xp.log(ratio), xp.log(a) - xp.log(b))


def decode_boxes(
    xp: Backend,
    offsets: Array,
    references: Array,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    clip_log: float = LARGEST_LOG,
) -> Array:
    """Decode offsets from references into boxes (x1, y1, x2, y2); the inverse of `encode_boxes`.

    The logarithms of width and height are clamped to at most `clip_log` before the exponential.

    Args:
        offsets: (..., 4).
        references: anchors or proposals, of the shape of offsets.
        weights: the factors that the offsets were encoded with.
        clip_log: the largest logarithm of a ratio of widths or heights.
    """
    (offsets, references), dtype = lift(xp, offsets, references)
    numbers.boxes(xp, offsets=offsets, references=references)
    numbers.same_shape(xp, "offsets", offsets, "references", references)
    for index, factor in enumerate(weights):
        numbers.positive(f"weights[{index}]", factor)
    limits = LIMITS[xp.dtype(offsets)]
    clip_log = min(clip_log, limits.log_max)
    width, height, x, y = sides(xp, references, 0.0)
    dx, dy, dw, dh = (saturated(xp, offsets[..., i] / weights[i]) for i in range(4))
    x, y = saturated(xp, saturated(xp, dx * width) + x), saturated(xp, saturated(xp, dy * height) + y)
    half_width = saturated(xp, 0.5 * xp.exp(xp.where(dw > clip_log, clip_log, dw)) * width)
    half_height = saturated(xp, 0.5 * xp.exp(xp.where(dh > clip_log, clip_log, dh)) * height)
    corners = [x - half_width, y - half_height, x + half_width, y + half_height]
    return settle(xp, xp.stack([clip(xp, corner, limits.max) for corner in corners], -1), dtype)


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
    numbers.reduction(reduction)
    numbers.not_negative("beta", beta)
    objectness, deltas, delta_targets = (xp.asarray(x, None) for x in (objectness, deltas, delta_targets))
    dtype = numbers.result_dtype(xp, objectness, deltas, delta_targets)
    labels = xp.asarray(labels, None)
    anchors = math.prod(xp.shape(objectness))
    objectness = xp.reshape(objectness, (anchors,))
    if math.prod(xp.shape(labels)) != anchors:
        raise ValueError(f"labels has shape {numbers.show(xp.shape(labels))}: objectness has {anchors} anchors")
    labels = xp.reshape(labels, (anchors,))
    for name, x in (("deltas", deltas), ("delta_targets", delta_targets)):
        if xp.shape(x) != (anchors, 4):
            raise ValueError(f"{name} has shape {numbers.show(xp.shape(x))}: must be ({anchors}, 4)")
    if validate:
        numbers.finite(xp, objectness=objectness, deltas=deltas)
        numbers.look(xp, "labels", labels, lambda values, np: ~np.isin(values, (-1, 0, 1)), "must be -1, 0 or 1")
    return {
        "loss_objectness": quick(objectness_loss)(xp, objectness, labels, reduction, dtype),
        "loss_rpn_box_reg": quick(regression_loss)(xp, deltas, delta_targets, labels, beta, reduction, dtype),
    }


def objectness_loss(xp: Backend, logits: Array, labels: Array, reduction: str, dtype: str) -> Array:
    """The binary cross-entropy of the anchors that are labelled."""
    logits, kept = lift_to(xp, logits, None, dtype), labels >= 0
    entropy = bce_of_logits(xp, xp.where(kept, logits, 0.0), xp.cast(labels > 0, xp.dtype(logits)))
    return reduce_loss(xp, xp.where(kept, entropy, 0.0), reduction, dtype, labelled(xp, labels, logits))


def labelled(xp: Backend, labels: Array, like: Array) -> Array:
    return xp.sum(xp.cast(labels >= 0, xp.dtype(like)))


def regression_loss(
    xp: Backend, deltas: Array, targets: Array, labels: Array, beta: float, reduction: str, dtype: str
) -> Array:
    """The smooth L1 of boxes (R, 4) where there is an object."""
    deltas, targets = lift_to(xp, deltas, None, dtype), lift_to(xp, targets, None, dtype)
    mask = xp.reshape(labels > 0, (xp.shape(labels)[0], 1))
    difference = saturated(xp, xp.where(mask, deltas, 0.0) - xp.where(mask, targets, 0.0))
    regression = saturated(xp, xp.sum(huber(xp, difference, beta), (1,)))
    return reduce_loss(xp, regression, reduction, dtype, labelled(xp, labels, deltas))


def own_boxes(xp: Backend, deltas: Array, labels: Array) -> Array:
    """Return the four numbers of each row (4 C) that belong to its label."""
    rows, columns = xp.shape(deltas)
    if columns == 4:
        return deltas
    if is_empty(xp, deltas):
        return xp.sum(xp.reshape(deltas, (rows, columns // 4, 4)), (1,))
    first, own = xp.arange(rows, labels) * (columns // 4), xp.where(labels > 0, labels, labels * 0)
    if xp.dtype(labels) in numbers.ORDER:
        # Keras hands class indices over as floats.
        first = xp.cast(first, xp.dtype(labels))
    return xp.rows(xp.reshape(deltas, (-1, 4)), first + own)


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
    numbers.reduction(reduction)
    numbers.not_negative("beta", beta)
    class_logits, box_regression, regression_targets = (
        xp.asarray(x, None) for x in (class_logits, box_regression, regression_targets)
    )
    dtype = numbers.result_dtype(xp, class_logits, box_regression, regression_targets)
    if xp.dtype(class_logits) != dtype:
        class_logits = lift_to(xp, class_logits, None, dtype)
    labels = xp.asarray(labels, None)
    shape = xp.shape(class_logits)
    if len(shape) != 2:
        raise ValueError(f"class_logits has shape {numbers.show(shape)}: must be (R, C)")
    proposals, classes = shape
    if xp.shape(labels) != (proposals,):
        raise ValueError(f"labels has shape {numbers.show(xp.shape(labels))}: must be ({proposals},)")
    if xp.shape(regression_targets) != (proposals, 4):
        raise ValueError(
            f"regression_targets has shape {numbers.show(xp.shape(regression_targets))}: must be ({proposals}, 4)"
        )
    if xp.shape(box_regression) not in ((proposals, 4), (proposals, 4 * classes)):
        given = numbers.show(xp.shape(box_regression))
        raise ValueError(f"box_regression has shape {given}: must be ({proposals}, 4) or ({proposals}, {4 * classes})")
    if validate:
        numbers.finite(xp, class_logits=class_logits, box_regression=box_regression)
        numbers.labels(xp, "labels", labels, classes, -1)
    target = xp.where(labels >= 0, labels, labels * 0 - 100)
    return {
        "loss_classifier": quick(cross_entropy)(xp, class_logits, target, reduction=reduction, dim=1),
        "loss_box_reg": quick(regression_loss)(
            xp, own_boxes(xp, box_regression, labels), regression_targets, labels, beta, reduction, dtype
        ),
    }
