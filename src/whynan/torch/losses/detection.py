"""Losses of detectors."""

import torch
from torch import Tensor
from torch.nn import functional

from whynan.formulas.losses import detection as formulas
from whynan.torch.backend import XP
from whynan.torch.fast import documented, sound, whole
from whynan.torch.losses.classification import indexed_cross_entropy
from whynan.torch.losses.kernels import BinaryCrossEntropy


def plain_arguments(labels: Tensor, beta: float, reduction: str, validate: bool) -> bool:
    """Return whether PyTorch's own kernels and indices will do, which is where the terms are sums over rows."""
    return not validate and reduction != "none" and (beta == 0 or 1e-12 < beta < 1e12) and labels.device.type == "cpu"


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
    return formulas.fast_rcnn_loss(
        XP, class_logits, box_regression, labels, regression_targets, beta, reduction, validate
    )
