"""Boxes."""

import torch
from torch import Tensor

from whynan.formulas import checks
from whynan.formulas.losses import boxes as formulas
from whynan.torch.backend import XP
from whynan.torch.fast import documented, largest, least, sound, whole
from whynan.torch.losses.classification import reduced

Four = tuple[float, float, float, float]


def plain_loss(kind: str, boxes: Tensor, targets: Tensor, reduction: str) -> Tensor | None:
    """Return the loss of boxes that all have an area of comfortable size, in PyTorch's own kernels; None for others."""
    checks.reduction(reduction)
    alike = isinstance(boxes, torch.Tensor) and isinstance(targets, torch.Tensor) and boxes.shape == targets.shape
    if not (alike and boxes.dim() and boxes.shape[-1] == 4 and whole(boxes, targets)):
        return None
    near, far = boxes.split(2, -1)
    target_near, target_far = targets.split(2, -1)
    sides, target_sides = far - near, target_far - target_near
    if not min(least(sides), least(target_sides)) > 2.0**-30 or not max(largest(boxes), largest(targets)) < 2.0**30:
        return None
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
                with torch.no_grad():
                    share = aspect / (loss + aspect).clamp(min=torch.finfo(loss.dtype).tiny)
                distance = distance + share * aspect
            loss = loss + distance
    loss = reduced(loss, reduction)
    return loss if sound(loss) else None


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
