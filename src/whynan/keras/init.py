"""Initialization for Keras: the bias of a prior. `keras.initializers` has HeNormal, GlorotNormal and Orthogonal."""

from typing import Any

import keras

from whynan.formulas.layers import prior_bias

__all__ = ["focal_prior", "prior_bias"]


def focal_prior(prior: float = 0.01) -> Any:
    """Return an initializer of a bias that starts sigmoid logits at the probability `prior`."""
    return keras.initializers.Constant(prior_bias(prior))
