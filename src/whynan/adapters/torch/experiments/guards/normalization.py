"""larger-eps and larger-batch-or-groupnorm: normalisation layers that survive a variance of 0."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from whynan.adapters.torch.experiments.guards.call import Call, Guard

EPS = 1e-3


def _with_eps(place: int) -> Guard:
    def guard(call: Call) -> Any:
        if place < len(call.args):
            return call.func(*call.args[:place], max(float(call.args[place]), EPS), *call.args[place + 1 :])
        return call.func(*call.args, **{**call.kwargs, "eps": max(float(call.kwargs.get("eps", 0.0) or 0.0), EPS)})

    return guard


def _normalize(call: Call) -> Any:
    x, dim = call.args[0], call.argument(2, "dim", default=1)
    return x / torch.sqrt((x * x).sum(dim, keepdim=True) + EPS)


def _group_norm(call: Call) -> Any:
    """Group norm with the batch norm's own weight and bias."""
    x = call.args[0]
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    channels = x.shape[1]
    groups = next((g for g in (8, 4, 2) if channels % g == 0 and channels > g), 1)
    return F.group_norm(x, groups, weight, bias, max(float(call.argument(7, "eps", default=1e-5)), 1e-5))


class GroupNormLayers:
    """While entered, each layer of batch norm runs as the group norm that `whynan.torch.layers` makes of it."""

    def __init__(self) -> None:
        self.n_applied = 0
        self.parts: set[str] = set()
        self._forward: Any = None

    def __enter__(self) -> None:
        from whynan.torch.layers import group_norm_of

        self._forward = _BatchNorm.forward

        def forward(layer: Any, x: Any) -> Any:
            self.n_applied += 1
            self.parts.add("whynan.torch.layers.replace_batch_norm")
            return group_norm_of(layer)(x)

        _BatchNorm.forward = forward

    def __exit__(self, *exception: object) -> None:
        _BatchNorm.forward = self._forward


LARGER_EPS: dict[str, Guard] = {
    "batch_norm": _with_eps(7), "layer_norm": _with_eps(4), "group_norm": _with_eps(4), "instance_norm": _with_eps(7),
    "rms_norm": _with_eps(3), "local_response_norm": _with_eps(4), "normalize": _normalize,
}  # fmt: skip
GROUP_NORM: dict[str, Guard] = {"batch_norm": _group_norm, "instance_norm": _group_norm}
