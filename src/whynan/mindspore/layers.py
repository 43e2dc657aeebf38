"""Normalisation for MindSpore."""

from typing import Any

import mindspore
from mindspore import Parameter, nn

from whynan.formulas.layers import layer_norm
from whynan.mindspore.backend import XP

__all__ = ["ChannelLayerNorm"]


class ChannelLayerNorm(nn.Cell):
    """Layer norm over the channels of each pixel, (N, C, ...), at any spatial size and for numbers of any size.

    Args:
        num_channels: C.
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = Parameter(mindspore.ops.ones((num_channels,), mindspore.float32), name="weight")
        self.bias = Parameter(mindspore.ops.zeros((num_channels,), mindspore.float32), name="bias")

    def construct(self, x: Any) -> Any:
        shape = (1, self.num_channels, *([1] * (x.ndim - 2)))
        return layer_norm(XP, x, self.weight.reshape(shape), self.bias.reshape(shape), 1, self.eps)
