"""Layers: normalisation that survives what batch norm does not, and a region proposal head that uses it."""

from whynan.torch.layers.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, ChannelLayerNorm
from whynan.torch.layers.replace import group_norm_of, replace_batch_norm
from whynan.torch.layers.rpn import RPNHead

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "ChannelLayerNorm",
    "RPNHead",
    "group_norm_of",
    "replace_batch_norm",
]
