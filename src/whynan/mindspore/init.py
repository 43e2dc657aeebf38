"""Initialization for MindSpore: the bias of a prior. `mindspore.common.initializer` has HeNormal, XavierUniform,
Orthogonal.
"""

from typing import Any

from mindspore.common.initializer import Constant

from whynan.formulas.layers import prior_bias

__all__ = ["focal_prior", "prior_bias"]


def focal_prior(prior: float = 0.01) -> Any:
    """Return an initializer of a bias that starts sigmoid logits at the probability `prior`."""
    return Constant(prior_bias(prior))
