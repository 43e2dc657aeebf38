"""Gradient clipping for Keras, on lists of gradients; non-finite ones stay visible and spread to no other.

Keras's optimizers clip by themselves (`clipnorm`, `global_clipnorm`, `clipvalue`) and turn all gradients into NaN
where one is.
In a custom training loop call these between the tape and `optimizer.apply`.
"""

from typing import Any

import keras

from whynan.formulas import clipping, numbers
from whynan.formulas.reductions import norm
from whynan.keras.backend import XP

__all__ = ["Accumulator", "ZClip", "clip_adaptive", "clip_by_global_norm", "clip_by_value"]


def clip_by_global_norm(gradients: list[Any], max_norm: float) -> tuple[list[Any], Any]:
    """Return the gradients scaled down so that together their 2-norm is at most `max_norm`, and the norm before.

    The norm that scales is that of the gradients which are finite; one with NaN or Inf stays as it is, and the norm
    returned is not finite then. A None stays None.

    Args:
        gradients: a list of arrays and None.
        max_norm: the bound, above 0.
    """
    numbers.positive("max_norm", max_norm)
    given = [g for g in gradients if g is not None]
    if not given:
        return gradients, keras.ops.zeros(())
    norms = keras.ops.stack([keras.ops.cast(norm(XP, keras.ops.cast(g, "float32")), "float32") for g in given])
    ok = keras.ops.stack([keras.ops.all(keras.ops.isfinite(g)) for g in given])
    total = norm(XP, keras.ops.where(ok, norms, 0.0))
    factor = keras.ops.minimum(1.0, max_norm / (total + 1e-6))
    scaled = iter([keras.ops.where(ok[i], g * keras.ops.cast(factor, g.dtype), g) for i, g in enumerate(given)])
    result = [None if g is None else next(scaled) for g in gradients]
    return result, keras.ops.where(keras.ops.all(ok), total, float("nan"))


def clip_by_value(gradients: list[Any], clip_value: float) -> list[Any]:
    """Return the gradients with each element in ±clip_value; NaN and ±Inf stay as they are.

    Args:
        gradients: a list of arrays and None.
        clip_value: the bound, above 0.
    """
    numbers.positive("clip_value", clip_value)
    return [
        None if g is None else keras.ops.where(keras.ops.isfinite(g), keras.ops.clip(g, -clip_value, clip_value), g)
        for g in gradients
    ]


def clip_adaptive(gradients: list[Any], parameters: Any, clip_factor: float = 0.01, eps: float = 1e-3) -> list[Any]:
    """Return the gradients with each unit's norm at most `clip_factor` times its weight's (AGC; Brock et al., 2021).

    A unit is an index of the last dimension, as Keras lays out kernels; of a vector it is the whole. One
    that is not finite stays as it is.

    Args:
        gradients: a list of arrays and None.
        parameters: the weights in the same order.
        clip_factor: the largest ratio of norms, above 0.
        eps: the least norm that a unit's weight counts with.
    """
    return [
        None if g is None else clipping.adaptive(XP, g, keras.ops.convert_to_tensor(p), clip_factor, eps, -1)
        for g, p in zip(gradients, parameters, strict=True)
    ]


class ZClip(clipping.ZClip):
    __doc__ = clipping.ZClip.__doc__
    by_global_norm = staticmethod(clip_by_global_norm)


Accumulator = clipping.Accumulator
