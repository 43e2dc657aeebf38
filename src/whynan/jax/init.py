"""Initialization for JAX: the initializers that JAX has, the biases of priors, and the scale of activations."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import glorot_normal, he_normal

from whynan.formulas.layers import LayerScale, nonlinearity_of, prior_bias, scale_of_output

__all__ = ["LayerScale", "activation_scale", "by_nonlinearity", "detection_prior", "focal_prior", "prior_bias"]


def by_nonlinearity(nonlinearity: str = "relu") -> Any:
    """Return Kaiming's initializer for the family of ReLU, Xavier's for "tanh", "sigmoid" and "linear"."""
    return he_normal() if nonlinearity_of(nonlinearity) == "kaiming normal" else glorot_normal()


def activation_scale(activations: Any) -> list[LayerScale]:
    """Return the scale of each array of a pytree, by its path.

    Flax hands the activations of all layers out: `model.apply(variables, x, capture_intermediates=True)[1]`; parameters
    and gradients are pytrees as well.

    Args:
        activations: a pytree of arrays of floats.
    """
    leaves = jax.tree_util.tree_leaves_with_path(activations)
    return [
        scale_of_output(jax.tree_util.keystr(path, simple=True, separator="."), "Array", jnp.asarray(x, "float32"))
        for path, x in leaves
    ]


def focal_prior(prior: float = 0.01) -> Any:
    """Return an initializer of a bias that starts sigmoid logits at the probability `prior`."""
    value = prior_bias(prior)

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
        return jnp.full(shape, value, dtype)

    return initializer


def detection_prior(background: float = 0.99) -> Any:
    """Return an initializer of the bias of a softmax, class 0 the background, that starts at this prior.

    The background's bias is log(background (C - 1) / (1 - background)) above those of the other classes.
    """
    value = prior_bias(background)

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
        return jnp.zeros(shape, dtype).at[..., 0].set(value + math.log(max(shape[-1] - 1, 1)))

    return initializer
