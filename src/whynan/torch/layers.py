"""Layers: normalisation that survives what batch norm does not, and a region proposal head that uses it."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whynan.formulas.numbers import scale_of
from whynan.torch.backend import XP, largest, limits, whole

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "ChannelLayerNorm",
    "RPNHead",
    "group_norm_of",
    "replace_batch_norm",
]


def comfortable_input(x: Tensor) -> bool:
    """Return whether it is known that squares of x, summed up, are no problem."""
    return whole(x) and largest(x) < limits(x).max ** 0.25


def shrunk(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x times a power of two of at most 1, in which squares do not overflow, and that power."""
    scale = scale_of(XP, x.detach().abs().amax()).clamp(max=1.0)
    return x * scale, scale


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of each pixel, (N, C, ...), at any spatial size, none included.

    Args:
        num_channels: C.
        eps: added to the variance.
        affine: whether there are a weight and a bias for each channel.
    """

    def __init__(
        self, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}: must be (N, {self.num_channels}, ...)")
        wide = x.movedim(1, -1)
        if comfortable_input(x):
            return functional.layer_norm(wide, (self.num_channels,), self.weight, self.bias, self.eps).movedim(-1, 1)
        return self.normalized(wide).to(x.dtype).movedim(-1, 1)

    def normalized(self, wide: Tensor) -> Tensor:
        """Layer norm of numbers of any size: in a scale in which no square overflows."""
        if not wide.numel():
            return wide * 1.0 if self.weight is None else wide * self.weight
        x = wide.float() if wide.dtype in (torch.float16, torch.bfloat16) else wide
        scale = scale_of(XP, x.detach().abs().amax(-1, keepdim=True)).clamp(max=1.0)
        x = x * scale
        x = x - x.mean(-1, keepdim=True)
        eps = (self.eps * scale * scale).clamp(min=torch.finfo(x.dtype).tiny)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        if self.weight is not None:
            x = x * self.weight + self.bias
        top = torch.finfo(wide.dtype).max
        return x.clamp(-top, top)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


class SafeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm that takes its running statistics where a batch has none.

    While training, a batch with one value for each channel has no variance: PyTorch raises an error for it. Here, and
    for an empty batch,
    the running statistics are used, as in evaluation, and left as they are. Statistics of values whose squares
    overflow are taken in a scale in which they do not; running statistics stop at the dtype's largest number.
    """

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not x.numel():
            return x * 1.0 if self.weight is None else x * self.weight.reshape(1, -1, *([1] * (x.dim() - 2)))
        values = x.numel() // x.shape[1]
        batch = self.training or self.running_mean is None
        if batch and values <= 1:
            return self.by_running_statistics(x)
        if not batch:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if comfortable_input(x):
            # PyTorch's own forward, which counts batches and knows momentum=None.
            result: Tensor = super().forward(x)
            return result
        return self.scaled(x)

    def by_running_statistics(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics; without any by a mean of 0 and a variance of 1."""
        mean = self.running_mean if self.running_mean is not None else x.new_zeros(self.num_features)
        variance = self.running_var if self.running_var is not None else x.new_ones(self.num_features)
        return functional.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)

    def scaled(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        small, scale = shrunk(wide)
        dims = [0, *range(2, x.dim())]
        shape = (1, -1, *([1] * (x.dim() - 2)))
        mean = small.mean(dims)
        deviation = small - mean.reshape(shape)
        variance = deviation.square().mean(dims)
        self.update(mean.detach() / scale, variance.detach() / scale / scale, x.numel() // x.shape[1])
        eps = (self.eps * scale * scale).clamp(min=torch.finfo(wide.dtype).tiny)
        result = deviation * torch.rsqrt(variance + eps).reshape(shape)
        if self.weight is not None:
            result = result * self.weight.reshape(shape) + self.bias.reshape(shape)
        top = torch.finfo(x.dtype).max
        return result.clamp(-top, top).to(x.dtype)

    @torch.no_grad()
    def update(self, mean: Tensor, variance: Tensor, values: int) -> None:
        if not self.track_running_stats or self.running_mean is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        for running, new in ((self.running_mean, mean), (self.running_var, variance * values / max(values - 1, 1))):
            top = torch.finfo(running.dtype).max
            running.lerp_(new.to(running.dtype).clamp(-top, top), share)
            running.clamp_(-top, top)


class BatchNorm1d(SafeBatchNorm):
    """`torch.nn.BatchNorm1d` that survives batches of one, and empty ones."""

    __doc__ = f"{__doc__}\n\n    {SafeBatchNorm.__doc__}"

    def _check_input_dim(self, x: Tensor) -> None:
        check_dims(x, (2, 3))


class BatchNorm2d(SafeBatchNorm):
    """`torch.nn.BatchNorm2d` that survives batches of one pixel, and empty ones."""

    __doc__ = f"{__doc__}\n\n    {SafeBatchNorm.__doc__}"

    def _check_input_dim(self, x: Tensor) -> None:
        check_dims(x, (4,))


class BatchNorm3d(SafeBatchNorm):
    """`torch.nn.BatchNorm3d` that survives batches of one voxel, and empty ones."""

    __doc__ = f"{__doc__}\n\n    {SafeBatchNorm.__doc__}"

    def _check_input_dim(self, x: Tensor) -> None:
        check_dims(x, (5,))


def check_dims(x: Tensor, allowed: tuple[int, ...]) -> None:
    if x.dim() not in allowed:
        wanted = " or ".join(str(dims) for dims in allowed)
        raise ValueError(f"x has {x.dim()} dimensions, shape {tuple(x.shape)}: must have {wanted}")


def group_norm_of(batch_norm: Any, num_groups: int = 32) -> nn.GroupNorm:
    """Return a group norm with the weight, bias, eps, dtype and device of a batch norm.

    Args:
        batch_norm: a BatchNorm1d, 2d, 3d or SyncBatchNorm.
        num_groups: the most groups; there are as many as divide the channels, of at least two channels each: the only
            value of a group would always be 0.
    """
    channels = batch_norm.num_features
    groups = math.gcd(num_groups, channels)
    if groups == channels > 1:
        groups = groups // 2 if groups % 2 == 0 else 1
    weight = batch_norm.weight
    place = batch_norm.running_mean if weight is None else weight
    layer = nn.GroupNorm(
        groups,
        channels,
        eps=batch_norm.eps,
        affine=weight is not None,
        device=None if place is None else place.device,
        dtype=None if place is None else place.dtype,
    )
    if weight is not None:
        # The very parameters, so that an optimizer that has them keeps them.
        layer.weight, layer.bias = batch_norm.weight, batch_norm.bias
    layer.train(batch_norm.training)
    return layer


def replace_batch_norm(model: nn.Module, num_groups: int = 32) -> nn.Module:
    """Replace each batch norm of a model by a group norm, in place, and return the model.

    A model that is itself a batch norm is not changed: its group norm is returned. Trained weights are kept, but were
    trained for other statistics: train them further.

    Args:
        model: any module.
        num_groups: the most groups of a layer; there are as many as divide its channels.
    """
    if num_groups < 1:
        raise ValueError(f"num_groups: must be at least 1, is {num_groups}")
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        return group_norm_of(model, num_groups)
    done: dict[int, nn.GroupNorm] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                if isinstance(child, nn.modules.lazy.LazyModuleMixin) and child.num_features == 0:
                    raise ValueError(
                        f"{name}: a lazy batch norm does not know its channels yet; run the model once before"
                    )
                # A layer that a model uses twice stays one layer.
                parent._modules[name] = done.setdefault(id(child), group_norm_of(child, num_groups))
    return model


class RPNHead(nn.Module):
    """Head of a region proposal network with layer norm over channels, for feature maps of any size.

    As `torchvision.models.detection.rpn.RPNHead`, whose place it takes (`model.rpn.head = RPNHead(...)`). The norm
    keeps the logits
    in bounds whatever the backbone sends, the weights start small and objectness at a prior, so that the first steps
    do not overflow among thousands of negatives.

    Args:
        in_channels: channels of the feature maps.
        num_anchors: anchors at each place.
        conv_depth: convolutions before the two predictions.
        prior: the probability of an object that the head starts with, in (0, 1).
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1, prior: float = 0.01) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"prior: must be in (0, 1), is {prior}")
        blocks = [
            nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, padding=1), ChannelLayerNorm(in_channels), nn.ReLU())
            for _ in range(conv_depth)
        ]
        self.conv = nn.Sequential(*blocks)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior) / prior))

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness logits (N, A, H, W) and box deltas (N, 4 A, H, W) of each feature map (N, C, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]
