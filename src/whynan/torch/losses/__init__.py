"""Losses whose value and gradient are finite for all finite arguments.

Each gives 0 with a live gradient graph for an empty or wholly ignored target, and the dtype's largest number, with
gradient 0, where the loss of huge arguments is beyond it.
"""

from whynan.torch.losses.boxes import (
    ciou_loss,
    decode_boxes,
    diou_loss,
    encode_boxes,
    fast_rcnn_loss,
    gaussian_nll_loss,
    giou_loss,
    iou_loss,
    kl_divergence_normal,
    relative_error_loss,
    rpn_loss,
    smooth_l1_loss,
)
from whynan.torch.losses.classification import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    cross_entropy,
    focal_loss,
)
from whynan.torch.losses.similarity import (
    contrastive_loss,
    cosine_distance,
    ctc_loss,
    dice_loss,
    info_nce_loss,
    jaccard_loss,
    lovasz_softmax_loss,
    pairwise_distance,
    tversky_loss,
)

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
