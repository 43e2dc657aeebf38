"""Layers for MindSpore: batch norm for batches of one, layer norm over channels, group norm for batch norm."""

import math
from typing import Any

import mindspore
from mindspore import Parameter, nn
from mindspore.common.initializer import Constant, Normal

from whynan.formulas.layers import layer_norm, prior_bias
from whynan.mindspore.backend import XP

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "ChannelLayerNorm", "RPNHead", "replace_batch_norm"]


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


class SafeBatchNorm:
    """Batch norm that uses the moving statistics, and leaves them, where a batch has one value for each channel.

    MindSpore takes the variance of one value for 0, which makes the output constant and draws the moving variance to 0.
    """

    def construct(self: Any, x: Any) -> Any:
        if not self.training or x.size > x.shape[1]:
            return super().construct(x)  # type: ignore[misc]
        shape = (1, -1, *([1] * (x.ndim - 2)))
        mean, variance, gamma, beta = (
            p.reshape(shape) for p in (self.moving_mean, self.moving_variance, self.gamma, self.beta)
        )
        return (x - mean) / mindspore.ops.sqrt(variance + self.eps) * gamma + beta


class BatchNorm1d(SafeBatchNorm, nn.BatchNorm1d):
    __doc__ = SafeBatchNorm.__doc__


class BatchNorm2d(SafeBatchNorm, nn.BatchNorm2d):
    __doc__ = SafeBatchNorm.__doc__


class BatchNorm3d(nn.BatchNorm3d):
    __doc__ = SafeBatchNorm.__doc__

    def __init__(self, num_features: int, *args: Any, **named: Any) -> None:
        super().__init__(num_features, *args, **named)
        self.bn2d = BatchNorm2d(num_features, *args, **named)


class RPNHead(nn.Cell):
    """Head of a region proposal network with layer norm over channels, for feature maps (N, C, H, W) of any size.

    Args:
        in_channels: channels of the feature maps.
        num_anchors: anchors at each place.
        prior: the probability of an object that the head starts with, in (0, 1).
    """

    def __init__(self, in_channels: int, num_anchors: int, prior: float = 0.01) -> None:
        super().__init__()
        small: dict[str, Any] = {"weight_init": Normal(0.01), "has_bias": True}
        self.conv = nn.Conv2d(in_channels, in_channels, 3, **small)
        self.norm = ChannelLayerNorm(in_channels)
        start = Constant(prior_bias(prior))
        self.objectness = nn.Conv2d(in_channels, num_anchors, 1, **small, bias_init=start)
        self.deltas = nn.Conv2d(in_channels, num_anchors * 4, 1, **small)

    def construct(self, x: Any) -> tuple[Any, Any]:
        """Return objectness logits (N, A, H, W) and box deltas (N, 4 A, H, W)."""
        hidden = mindspore.ops.relu(self.norm(self.conv(x)))
        return self.objectness(hidden), self.deltas(hidden)


def replace_batch_norm(model: Any, groups: int = 32) -> Any:
    """Put group norm in the place of each batch norm of 2-d images, in place, with its weights, and return the model.

    Args:
        model: any cell.
        groups: the most groups of a cell; there are as many as divide its channels.
    """
    if groups < 1:
        raise ValueError(f"groups: must be at least 1, is {groups}")

    def norm_of(cell: Any) -> Any:
        group = nn.GroupNorm(math.gcd(groups, cell.num_features), cell.num_features, cell.eps)
        group.gamma, group.beta = cell.gamma, cell.beta
        return group

    if isinstance(model, nn.BatchNorm2d):
        return norm_of(model)
    done: dict[int, Any] = {}
    for _, parent in list(model.cells_and_names()):
        for name, child in parent.name_cells().items():
            if isinstance(child, nn.BatchNorm2d):
                # A cell that a model uses twice stays one cell.
                new = done.setdefault(id(child), norm_of(child))
                if isinstance(parent, nn.SequentialCell):
                    parent[int(name)] = new
                else:
                    setattr(parent, name, new)
    return model
