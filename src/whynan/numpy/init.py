"""Initialization for NumPy: weights by what follows them, the bias of a prior, and the scale of activations."""

import math
from typing import Any

import numpy as np

from whynan.formulas.layers import LayerScale, nonlinearity_of, prior_bias, scale_of_output

__all__ = ["LayerScale", "activation_scale", "by_nonlinearity", "prior_bias"]


def by_nonlinearity(shape: tuple[int, ...], nonlinearity: str = "relu", rng: Any = None) -> Any:
    """Return weights by Kaiming for the family of ReLU, by Xavier for "tanh", "sigmoid" and "linear".

    Args:
        shape: (..., inputs, outputs), for `x @ w`; what stands before counts for both.
        nonlinearity: what follows.
        rng: a `numpy.random.Generator`; a new one where it is not given.
    """
    field = math.prod(shape[:-2])
    inputs, outputs = shape[-2] * field, shape[-1] * field
    kaiming = nonlinearity_of(nonlinearity) == "kaiming normal"
    std = math.sqrt(2 / max(inputs if kaiming else inputs + outputs, 1))
    return (rng or np.random.default_rng()).normal(0.0, std, shape)


def activation_scale(activations: dict[str, Any]) -> list[LayerScale]:
    """Return the scale of each array of {name: array}: activations, weights or gradients."""
    return [scale_of_output(name, "ndarray", x) for name, x in activations.items()]
