"""Losses for NumPy that are finite for all finite arguments.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.losses`. The class dimension is the last
one; `dim` names another.
Each gives 0 for an empty or wholly ignored target.
"""

from functools import partial

from whynan.formulas.losses import boxes, classification, overlap, regression, similarity
from whynan.numpy.plain import part

_part = partial(part, names={"axis": "dim"}, dim=-1)

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

__all__ = [
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
