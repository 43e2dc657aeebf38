"""Replace batch norm by group norm in a model."""

import math
from typing import Any

from torch import nn


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
