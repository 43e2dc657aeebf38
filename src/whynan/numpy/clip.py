"""Gradient clipping for NumPy, on lists of arrays; non-finite ones stay visible and spread to no other."""

import math
from typing import Any

import numpy as np

from whynan.formulas import clipping, numbers
from whynan.formulas.reductions import norm
from whynan.numpy.backend import XP

__all__ = ["Accumulator", "ZClip", "clip_adaptive", "clip_by_global_norm", "clip_by_value"]


def clip_by_global_norm(gradients: list[Any], max_norm: float) -> tuple[list[Any], float]:
    """Return the gradients scaled down so that together their 2-norm is at most `max_norm`, and the norm before.

    The norm that scales is that of the arrays which are finite; one with NaN or Inf stays as it is, and the norm
    returned is NaN then.

    Args:
        gradients: a list of arrays.
        max_norm: the bound, above 0.
    """
    numbers.positive("max_norm", max_norm)
    fine = [bool(np.isfinite(g).all()) for g in gradients]
    norms = [float(norm(XP, np.asarray(g, np.float64))) for g, ok in zip(gradients, fine, strict=True) if ok]
    total = math.hypot(*norms)
    factor = min(1.0, max_norm / (total + 1e-6))
    scaled = [(g * factor).astype(g.dtype) if ok else g for g, ok in zip(gradients, fine, strict=True)]
    return scaled, total if all(fine) else math.nan


def clip_by_value(gradients: list[Any], clip_value: float) -> list[Any]:
    """Return the gradients with each element in ±clip_value; NaN and ±Inf stay as they are.

    Args:
        gradients: a list of arrays.
        clip_value: the bound, above 0.
    """
    numbers.positive("clip_value", clip_value)
    return [np.where(np.isfinite(g), np.clip(g, -clip_value, clip_value), g) for g in gradients]


def clip_adaptive(gradients: list[Any], parameters: Any, clip_factor: float = 0.01, eps: float = 1e-3) -> list[Any]:
    """Return the gradients with each unit's norm at most `clip_factor` times its weight's (AGC; Brock et al., 2021).

    A unit is an index of the last dimension, as for `x @ w`; of a vector it is the whole. One
    that is not finite stays as it is.

    Args:
        gradients: a list of arrays.
        parameters: the weights in the same order.
        clip_factor: the largest ratio of norms, above 0.
        eps: the least norm that a unit's weight counts with.
    """
    return [clipping.adaptive(XP, g, p, clip_factor, eps, -1) for g, p in zip(gradients, parameters, strict=True)]


class ZClip(clipping.ZClip):
    __doc__ = clipping.ZClip.__doc__
    by_global_norm = staticmethod(clip_by_global_norm)


Accumulator = clipping.Accumulator
