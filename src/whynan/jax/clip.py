"""Gradient clipping for JAX, on pytrees of gradients; non-finite leaves stay visible and spread to no other.

`optax.clip_by_global_norm` and `optax.adaptive_grad_clip` turn all gradients into NaN where one is.
"""

from typing import Any

import jax
import jax.numpy as jnp

from whynan.formulas import clipping, numbers
from whynan.jax.backend import XP

__all__ = ["Accumulator", "ZClip", "clip_adaptive", "clip_by_global_norm", "clip_by_value"]


def norm_of(x: Any) -> Any:
    """Return the 2-norm of an array in float32 or float64, without overflow where all elements are finite."""
    if not x.size:
        return jnp.zeros((), jnp.float32)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(wide))
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return jnp.sqrt(jnp.sum(jnp.square(wide / safe))) * safe


def clip_by_global_norm(gradients: Any, max_norm: float) -> tuple[Any, Any]:
    """Return the gradients scaled down so that together their 2-norm is at most `max_norm`, and the norm before.

    The norm that scales is that of the leaves which are finite; one with NaN or Inf stays as it is, and the norm
    returned is not finite then.

    Args:
        gradients: a pytree of arrays.
        max_norm: the bound, above 0.
    """
    numbers.positive("max_norm", max_norm)
    leaves, tree = jax.tree.flatten(gradients)
    if not leaves:
        return gradients, jnp.zeros(())
    norms = jnp.stack([norm_of(leaf) for leaf in leaves])
    finite = jnp.isfinite(norms)
    total = norm_of(jnp.where(finite, norms, 0.0))
    factor = jnp.minimum(1.0, max_norm / (total + 1e-6))
    scaled = [jnp.where(ok, leaf * factor.astype(leaf.dtype), leaf) for ok, leaf in zip(finite, leaves, strict=True)]
    return jax.tree.unflatten(tree, scaled), jnp.where(finite.all(), total, jnp.sum(norms))


def clip_by_value(gradients: Any, clip_value: float) -> Any:
    """Return the gradients with each element in ±clip_value; NaN and ±Inf stay as they are.

    Args:
        gradients: a pytree of arrays.
        clip_value: the bound, above 0.
    """
    numbers.positive("clip_value", clip_value)
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), jnp.clip(x, -clip_value, clip_value), x), gradients)


def clip_adaptive(gradients: Any, parameters: Any, clip_factor: float = 0.01, eps: float = 1e-3) -> Any:
    """Return the gradients with each unit's norm at most `clip_factor` times its weight's (AGC; Brock et al., 2021).

    A unit is an index of the last dimension, as JAX lays out weights; of a vector it is the whole. One that is not
    finite stays as it is.

    Args:
        gradients: a pytree of arrays.
        parameters: a pytree like it.
        clip_factor: the largest ratio of norms, above 0.
        eps: the least norm that a unit's weight counts with.
    """
    return jax.tree.map(lambda g, p: clipping.adaptive(XP, g, p, clip_factor, eps, -1), gradients, parameters)


class ZClip(clipping.ZClip):
    __doc__ = clipping.ZClip.__doc__
    by_global_norm = staticmethod(clip_by_global_norm)


class Accumulator(clipping.Accumulator):
    __doc__ = clipping.Accumulator.__doc__

    def map(self, function: Any, *trees: Any) -> Any:
        return jax.tree.map(function, *trees)
