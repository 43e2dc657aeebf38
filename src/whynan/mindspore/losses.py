"""Losses for MindSpore whose value and gradient are finite for all finite arguments.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.losses`. `cross_entropy`, `focal_loss`
and `lovasz_softmax_loss` have their class dimension second, as MindSpore's own.
Each gives 0 with a live gradient graph for an empty or wholly ignored target.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mindspore

from whynan.formulas.backend import bind_all
from whynan.mindspore.backend import XP
from whynan.numpy import losses as parts

if TYPE_CHECKING:
    from whynan.numpy.losses import *  # noqa: F403

__all__ = parts.__all__


def _of_no_boxes(loss: Callable[..., Any]) -> Callable[..., Any]:
    """MindSpore has no kernel for the slope of a column of nothing: without boxes the loss is 0 times what it got."""

    @functools.wraps(loss)
    def function(boxes: Any, targets: Any, *args: Any, **given: Any) -> Any:
        if isinstance(boxes, mindspore.Tensor) and boxes.size == 0:
            reduction = given.get("reduction", args[-1] if args and isinstance(args[-1], str) else "mean")
            nothing = (boxes * 0 + targets * 0).astype(boxes.dtype)
            return nothing.reshape(boxes.shape[:-1]) if reduction == "none" else mindspore.mint.sum(nothing)
        return loss(boxes, targets, *args, **given)

    return function


globals().update(bind_all(XP, parts, names={"axis": "dim"}, dim=1))
for _name in ("ciou_loss", "diou_loss", "giou_loss", "iou_loss"):
    globals()[_name] = _of_no_boxes(globals()[_name])
