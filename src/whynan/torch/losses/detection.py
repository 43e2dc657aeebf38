"""Losses of detectors."""

import torch

from whynan.formulas.losses import detection as formulas
from whynan.torch.backend import XP
from whynan.torch.fast import documented

Tensor = torch.Tensor


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
    return formulas.fast_rcnn_loss(XP, class_logits, box_regression, labels, regression_targets, beta, reduction, validate)
