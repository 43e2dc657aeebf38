"""Losses of numbers, of boxes and of detectors."""

import functools

import torch
from torch import Tensor
from torch.nn import functional

from whynan.formulas import numbers
from whynan.formulas.losses import boxes as formulas
from whynan.formulas.losses import regression
from whynan.formulas.numbers import reduce_loss
from whynan.torch.backend import (
    NAMES,
    XP,
    Plain,
    choice,
    compiled,
    documented,
    full,
    known,
    largest,
    least,
    most,
    sound,
    untransformed,
    whole,
)
from whynan.torch.losses.classification import compiled_cross_entropy, compiled_indices, indexed_cross_entropy, reduced
from whynan.torch.losses.kernels import DIVERGENCE, HUBER, BinaryCrossEntropy

Four = tuple[float, float, float, float]


def plain_loss(kind: str, boxes: Tensor, targets: Tensor, reduction: str) -> Tensor | None:
    """Return the loss of boxes that all have an area of comfortable size, in PyTorch's own kernels; None for others."""
    numbers.reduction(reduction)
    alike = isinstance(boxes, torch.Tensor) and isinstance(targets, torch.Tensor) and boxes.shape == targets.shape
    if not (alike and boxes.dim() and boxes.shape[-1] == 4):
        return None
    if compiled(boxes, targets):
        found: Tensor = BOXES.apply(boxes, targets, kind, reduction)
        return found
    if not whole(boxes, targets):
        return None
    smallest = min(least(boxes[..., 2:] - boxes[..., :2]), least(targets[..., 2:] - targets[..., :2]))
    if not smallest > 2.0**-30 or not max(largest(boxes), largest(targets)) < 2.0**30:
        return None
    loss = loss_of_areas(boxes, targets, kind, reduction)
    return loss if sound(loss) else None


def look_at_areas(arrays: tuple[Tensor, ...], static: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Return whether all boxes have an area of comfortable size, and their loss."""
    loss = loss_of_areas(arrays[0], arrays[1], *static)
    # Column by column, in the loop of the loss. An area that overflows makes it NaN; the square of a diagonal does not.
    pair = [x.unbind(-1) for x in arrays]
    sides = [row[side + 2] - row[side] for row in pair for side in (0, 1)]
    known = (functools.reduce(torch.minimum, sides).amin() > 2.0**-30) & (loss.sum().abs() < torch.inf)
    if static[0] in ("diou", "ciou"):
        known = known & (functools.reduce(torch.maximum, [x.abs() for row in pair for x in row]).amax() < 2.0**30)
    return known, loss


def loss_of_areas(boxes: Tensor, targets: Tensor, kind: str, reduction: str) -> Tensor:
    near, far = boxes.split(2, -1)
    target_near, target_far = targets.split(2, -1)
    sides, target_sides = far - near, target_far - target_near
    inner = (torch.minimum(far, target_far) - torch.maximum(near, target_near)).clamp(min=0)
    overlap, area, target_area = (product(x) for x in (inner, sides, target_sides))
    union = area + target_area - overlap
    loss = (union - overlap) / union
    if kind != "iou":
        hull = torch.maximum(far, target_far) - torch.minimum(near, target_near)
        if kind == "giou":
            whole_area = product(hull)
            loss = loss + (whole_area - union) / whole_area
        else:
            apart = (near + far - target_near - target_far).square().sum(-1)
            distance = 0.25 * apart / hull.square().sum(-1)
            if kind == "ciou":
                width, height = sides.unbind(-1)
                target_width, target_height = target_sides.unbind(-1)
                turn = torch.atan(target_width / target_height) - torch.atan(width / height)
                aspect = (4 / torch.pi**2) * turn * turn
                share = (aspect / (loss + aspect).clamp(min=torch.finfo(loss.dtype).tiny)).detach()
                distance = distance + share * aspect
            loss = loss + distance
    return reduced(loss, reduction)


BOXES = choice(
    "Boxes",
    Plain(
        look_at_areas,
        lambda arrays, static, loss: loss,
        lambda gradient, arrays, static, loss: torch.func.vjp(lambda *pair: loss_of_areas(*pair, *static), *arrays)[1](
            gradient
        ),
        lambda arrays, static: formulas.box_loss(XP, static[0], arrays[0], arrays[1], None, static[1], False),
    ),
    2,
)


def product(sides: Tensor) -> Tensor:
    width, height = sides.unbind(-1)
    return width * height


@documented(formulas.iou_loss)
def iou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    plain = plain_loss("iou", boxes, targets, reduction) if weight is None and not validate else None
    return formulas.iou_loss(XP, boxes, targets, weight, reduction, validate) if plain is None else plain


@documented(formulas.giou_loss)
def giou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    plain = plain_loss("giou", boxes, targets, reduction) if weight is None and not validate else None
    return formulas.giou_loss(XP, boxes, targets, weight, reduction, validate) if plain is None else plain


@documented(formulas.diou_loss)
def diou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    plain = plain_loss("diou", boxes, targets, reduction) if weight is None and not validate else None
    return formulas.diou_loss(XP, boxes, targets, weight, reduction, validate) if plain is None else plain


@documented(formulas.ciou_loss)
def ciou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    plain = plain_loss("ciou", boxes, targets, reduction) if weight is None and not validate else None
    return formulas.ciou_loss(XP, boxes, targets, weight, reduction, validate) if plain is None else plain


@documented(formulas.encode_boxes)
def encode_boxes(
    boxes: Tensor, references: Tensor, weights: Four = (1.0, 1.0, 1.0, 1.0), min_size: float | None = None
) -> Tensor:
    return formulas.encode_boxes(XP, boxes, references, weights, min_size)


@documented(formulas.decode_boxes)
def decode_boxes(
    offsets: Tensor,
    references: Tensor,
    weights: Four = (1.0, 1.0, 1.0, 1.0),
    clip_log: float = formulas.LARGEST_LOG,
) -> Tensor:
    return formulas.decode_boxes(XP, offsets, references, weights, clip_log)


def plain_arguments(labels: Tensor, beta: float, reduction: str, validate: bool) -> bool:
    """Return whether PyTorch's own kernels and indices will do, which is where the terms are sums over rows."""
    if validate or not untransformed():
        return False
    return reduction != "none" and (beta == 0 or 1e-12 < beta < 1e12) and labels.device.type == "cpu"


def over(summed: Tensor, count: int, reduction: str) -> Tensor:
    return summed / count if reduction == "mean" else summed


@documented(formulas.rpn_loss)
def rpn_loss(
    objectness: Tensor,
    deltas: Tensor,
    labels: Tensor,
    delta_targets: Tensor,
    beta: float = 1 / 9,
    reduction: str = "mean",
    validate: bool = False,
) -> dict[str, Tensor]:
    shapes = deltas.shape == delta_targets.shape == (objectness.numel(), 4) and labels.numel() == objectness.numel()
    if shapes and whole(objectness, deltas, delta_targets) and plain_arguments(labels, beta, reduction, validate):
        labels = labels.reshape(-1)
        kept, positive = torch.where(labels >= 0)[0], torch.where(labels > 0)[0]
        if len(kept):
            entropy = BinaryCrossEntropy.apply(
                objectness.reshape(-1)[kept], (labels[kept] > 0).to(objectness.dtype), reduction
            )
            boxes = functional.smooth_l1_loss(deltas[positive], delta_targets[positive], reduction="sum", beta=beta)
            terms = {"loss_objectness": entropy, "loss_rpn_box_reg": over(boxes, len(kept), reduction)}
            if all(sound(term) for term in terms.values()):
                return terms
    return formulas.rpn_loss(XP, objectness, deltas, labels, delta_targets, beta, reduction, validate)


@documented(formulas.fast_rcnn_loss)
def fast_rcnn_loss(
    class_logits: Tensor,
    box_regression: Tensor,
    labels: Tensor,
    regression_targets: Tensor,
    beta: float = 1 / 9,
    reduction: str = "mean",
    validate: bool = False,
) -> dict[str, Tensor]:
    rows = len(labels) if labels.dim() == 1 else -1
    shapes = class_logits.dim() == 2 and len(class_logits) == rows and regression_targets.shape == (rows, 4)
    shapes = shapes and box_regression.shape in ((rows, 4), (rows, 4 * class_logits.shape[1]))
    known = plain_arguments(labels, beta, reduction, validate)
    if shapes and whole(class_logits, box_regression, regression_targets) and known and bool((labels >= 0).all()):
        entropy = indexed_cross_entropy(class_logits, labels, None, -100, reduction, 0.0)
        positive = torch.where(labels > 0)[0]
        if box_regression.shape[1] == 4:
            chosen = box_regression[positive]
        else:
            chosen = box_regression.reshape(rows, -1, 4)[positive, labels[positive]]
        boxes = functional.smooth_l1_loss(chosen, regression_targets[positive], reduction="sum", beta=beta)
        terms = {"loss_classifier": entropy, "loss_box_reg": over(boxes, rows, reduction)}
        if all(sound(term) for term in terms.values()):
            return terms
    found = formulas.fast_rcnn_loss(
        XP, class_logits, box_regression, labels, regression_targets, beta, reduction, validate
    )
    if compiled_indices(class_logits, labels):
        # The terms that are computed in fewer loops; of the others a compiler keeps nothing.
        index = torch.where(labels >= 0, labels, -100)
        found["loss_classifier"] = compiled_cross_entropy(class_logits, index, None, -100, reduction)
    return found


def together(*arrays: Tensor) -> bool:
    """Return whether these are of one shape and dtype, and may be looked at."""
    return all(isinstance(x, torch.Tensor) and x.shape == arrays[0].shape for x in arrays) and whole(*arrays)


@documented(regression.smooth_l1_loss)
def smooth_l1_loss(
    pred: Tensor,
    target: Tensor,
    beta: float = 1.0,
    sigma: float | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if sigma is not None:
        numbers.positive("sigma", sigma)
        beta, sigma = 1 / sigma**2, None
    if together(pred, target) and weight is None and not validate and (beta == 0 or 1e-12 < beta < 1e12):
        loss = functional.smooth_l1_loss(pred, target, reduction=reduction, beta=beta)
        if sound(loss):
            return loss
    if full(pred, target) and pred.shape == target.shape and weight is None and not validate and 1e-12 < beta < 1e12:
        return reduce_loss(XP, HUBER.apply(pred, target, beta), reduction, NAMES[pred.dtype])
    return regression.smooth_l1_loss(XP, pred, target, beta, sigma, weight, reduction, validate)


@documented(regression.relative_error_loss)
def relative_error_loss(
    pred: Tensor,
    target: Tensor,
    denominator: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if together(pred, target) and denominator is None and weight is None and not validate:
        loss = functional.l1_loss(pred, target, reduction=reduction)
        if sound(loss):
            return loss
    return regression.relative_error_loss(XP, pred, target, denominator, weight, reduction, validate)


@documented(regression.gaussian_nll_loss)
def gaussian_nll_loss(
    mean: Tensor,
    target: Tensor,
    log_var: Tensor,
    full: bool = False,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if together(mean, target, log_var) and not (full or validate) and weight is None and least(log_var) > -60:
        difference = mean - target
        loss = torch.addcmul(log_var, difference * difference, torch.exp(-log_var))
        loss = reduced(loss, reduction) * 0.5
        if sound(loss):
            return loss
    return regression.gaussian_nll_loss(XP, mean, target, log_var, full, weight, reduction, validate)


@documented(regression.kl_divergence_normal)
def kl_divergence_normal(
    mean: Tensor,
    log_var: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if together(mean, log_var) and not validate and weight is None and reduction != "none" and most(log_var) < 80:
        total = (torch.exp(log_var) + mean * mean - log_var).sum() - mean.numel()
        # The plain form cancels near the prior: there the formula has to be computed with more care.
        if sound(total) and known(total.item) > 0.25 * mean.numel():
            return total * (0.5 / mean.numel()) if reduction == "mean" else total * 0.5
    if (
        weight is None
        and not validate
        and reduction != "none"
        and mean.shape == log_var.shape
        and compiled(mean, log_var)
    ):
        return DIVERGENCE.apply(mean, log_var, reduction)
    return regression.kl_divergence_normal(XP, mean, log_var, weight, reduction, validate)
