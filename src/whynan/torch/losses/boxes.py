"""Boxes."""

import torch

from whynan.formulas.losses import boxes as formulas
from whynan.torch.backend import XP
from whynan.torch.fast import documented

Tensor = torch.Tensor
Four = tuple[float, float, float, float]


@documented(formulas.iou_loss)
def iou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    return formulas.iou_loss(XP, boxes, targets, weight, reduction, validate)


@documented(formulas.giou_loss)
def giou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    return formulas.giou_loss(XP, boxes, targets, weight, reduction, validate)


@documented(formulas.diou_loss)
def diou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    return formulas.diou_loss(XP, boxes, targets, weight, reduction, validate)


@documented(formulas.ciou_loss)
def ciou_loss(
    boxes: Tensor, targets: Tensor, weight: Tensor | None = None, reduction: str = "mean", validate: bool = False
) -> Tensor:
    return formulas.ciou_loss(XP, boxes, targets, weight, reduction, validate)


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
