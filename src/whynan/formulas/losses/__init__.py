"""Losses whose value and gradient are finite for all finite arguments."""

LOSSES = (
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "categorical_cross_entropy", "ciou_loss",
    "contrastive_loss", "cosine_distance", "cross_entropy", "ctc_loss", "decode_boxes", "dice_loss",
    "diou_loss", "encode_boxes", "fast_rcnn_loss", "focal_loss", "gaussian_nll_loss", "giou_loss",
    "info_nce_loss", "iou_loss", "jaccard_loss", "kl_divergence_normal", "lovasz_softmax_loss",
    "pairwise_distance", "relative_error_loss", "rpn_loss", "smooth_l1_loss", "tversky_loss",
)  # fmt: skip
"""What `losses` of each framework offers."""
