"""Losses for Keras 3 whose value and gradient are finite for all finite arguments.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.losses`. The class dimension is the last
one, as elsewhere in Keras; `as_keras` puts the arguments in its order.
Each gives 0 with a live gradient graph for an empty or wholly ignored target.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from whynan.formulas import backend
from whynan.formulas.losses import boxes, classification, overlap, regression, similarity
from whynan.keras.backend import XP

_part = partial(backend.bind, XP, names={"axis": "dim"}, dim=-1)

ciou_loss = _part(boxes.ciou_loss)
decode_boxes = _part(boxes.decode_boxes)
diou_loss = _part(boxes.diou_loss)
encode_boxes = _part(boxes.encode_boxes)
giou_loss = _part(boxes.giou_loss)
iou_loss = _part(boxes.iou_loss)

binary_cross_entropy = _part(classification.binary_cross_entropy)
binary_cross_entropy_with_logits = _part(classification.binary_cross_entropy_with_logits)
categorical_cross_entropy = _part(classification.categorical_cross_entropy)
cross_entropy = _part(classification.cross_entropy)
focal_loss = _part(classification.focal_loss)

fast_rcnn_loss = _part(boxes.fast_rcnn_loss)
rpn_loss = _part(boxes.rpn_loss)

dice_loss = _part(overlap.dice_loss)
jaccard_loss = _part(overlap.jaccard_loss)
lovasz_softmax_loss = _part(overlap.lovasz_softmax_loss)
tversky_loss = _part(overlap.tversky_loss)

gaussian_nll_loss = _part(regression.gaussian_nll_loss)
kl_divergence_normal = _part(regression.kl_divergence_normal)
relative_error_loss = _part(regression.relative_error_loss)
smooth_l1_loss = _part(regression.smooth_l1_loss)

ctc_loss = _part(similarity.ctc_loss)

contrastive_loss = _part(similarity.contrastive_loss)
cosine_distance = _part(similarity.cosine_distance)
info_nce_loss = _part(similarity.info_nce_loss)
pairwise_distance = _part(similarity.pairwise_distance)


def as_keras(loss: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    """Return a loss in the order in which Keras calls it, (y_true, y_pred), for `model.compile(loss=...)`.

        model.compile(loss=as_keras(cross_entropy, label_smoothing=0.1))

    Args:
        loss: a loss of this module that takes a prediction and a target.
        options: further arguments of the loss.
    """

    def in_order(y_true: Any, y_pred: Any) -> Any:
        return loss(y_pred, y_true, **options)

    in_order.__name__ = loss.__name__
    return in_order


__all__ = [
    "as_keras",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "ciou_loss",
    "contrastive_loss",
    "cosine_distance",
    "cross_entropy",
    "ctc_loss",
    "decode_boxes",
    "dice_loss",
    "diou_loss",
    "encode_boxes",
    "fast_rcnn_loss",
    "focal_loss",
    "gaussian_nll_loss",
    "giou_loss",
    "info_nce_loss",
    "iou_loss",
    "jaccard_loss",
    "kl_divergence_normal",
    "lovasz_softmax_loss",
    "pairwise_distance",
    "relative_error_loss",
    "rpn_loss",
    "smooth_l1_loss",
    "tversky_loss",
]
