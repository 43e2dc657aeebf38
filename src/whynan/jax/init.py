"""Initialization for JAX: the initializers that JAX has, and the bias of a prior."""

from typing import Any

import jax.numpy as jnp
from jax.nn.initializers import glorot_normal, he_normal

from whynan.formulas.layers import prior_bias

__all__ = ["by_nonlinearity", "focal_prior", "prior_bias"]


def by_nonlinearity(nonlinearity: str = "relu") -> Any:
    """Return Kaiming's initializer for the family of ReLU, Xavier's for "tanh", "sigmoid" and "linear"."""
    if nonlinearity in ("relu", "leaky_relu", "gelu", "silu", "elu"):
        return he_normal()
    if nonlinearity in ("tanh", "sigmoid", "linear"):
        return glorot_normal()
    raise ValueError(f"nonlinearity: {nonlinearity!r} is not known")


def focal_prior(prior: float = 0.01) -> Any:
    """Return an initializer of a bias that starts sigmoid logits at the probability `prior`."""
    value = prior_bias(prior)

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
        return jnp.full(shape, value, dtype)

    return initializer
