"""Gradient clipping for MindSpore, on tuples of gradients; non-finite ones stay visible and spread to no other."""

from typing import Any

import mindspore
from mindspore import ops

from whynan.formulas import clipping, numbers
from whynan.formulas.reductions import norm
from whynan.mindspore.backend import XP

__all__ = ["Accumulator", "ZClip", "clip_adaptive", "clip_by_global_norm", "clip_by_value"]


def clip_by_global_norm(gradients: Any, max_norm: float) -> tuple[tuple[Any, ...], Any]:
    """Return the gradients scaled down so that together their 2-norm is at most `max_norm`, and the norm before.

    The norm that scales is that of the gradients which are finite; one with NaN or Inf stays as it is, and the norm
    returned is NaN then. `mindspore.ops.clip_by_global_norm` turns all of them into NaN.

    Args:
        gradients: a tuple or list of tensors.
        max_norm: the bound, above 0.
    """
    numbers.positive("max_norm", max_norm)
    given = tuple(gradients)
    if not given:
        return given, mindspore.Tensor(0.0, mindspore.float32)
    ok = [bool(ops.isfinite(g).all()) for g in given]
    norms = [norm(XP, g.astype(mindspore.float32)) for g, fine in zip(given, ok, strict=True) if fine]
    total = norm(XP, ops.stack(norms)) if norms else mindspore.Tensor(0.0, mindspore.float32)
    factor = min(1.0, max_norm / (float(total) + 1e-6))
    scaled = tuple(g * factor if fine else g for g, fine in zip(given, ok, strict=True))
    return scaled, total if all(ok) else mindspore.Tensor(float("nan"), mindspore.float32)


def clip_by_value(gradients: Any, clip_value: float) -> tuple[Any, ...]:
    """Return the gradients with each element in ±clip_value; NaN and ±Inf stay as they are.

    Args:
        gradients: a tuple or list of tensors.
        clip_value: the bound, above 0.
    """
    numbers.positive("clip_value", clip_value)
    return tuple(ops.where(ops.isfinite(g), ops.clamp(g, -clip_value, clip_value), g) for g in gradients)


def clip_adaptive(gradients: Any, parameters: Any, clip_factor: float = 0.01, eps: float = 1e-3) -> tuple[Any, ...]:
    """Return the gradients with each unit's norm at most `clip_factor` times its weight's (AGC; Brock et al., 2021).

    A unit is an index of the first dimension, as MindSpore lays out weights; of a vector it is the whole. One
    that is not finite stays as it is.

    Args:
        gradients: a tuple of arrays.
        parameters: the weights in the same order.
        clip_factor: the largest ratio of norms, above 0.
        eps: the least norm that a unit's weight counts with.
    """
    return tuple(clipping.adaptive(XP, g, p, clip_factor, eps, 0) for g, p in zip(gradients, parameters, strict=True))


class ZClip(clipping.ZClip):
    __doc__ = clipping.ZClip.__doc__
    by_global_norm = staticmethod(clip_by_global_norm)


Accumulator = clipping.Accumulator
