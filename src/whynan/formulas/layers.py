"""What layers compute as functions of an array, and the bias of a prior."""

import math
from typing import Any

from whynan.formulas.backend import LIMITS, Array, Axis, Backend
from whynan.formulas.numbers import lift, saturated, scale_of, settle, size_of


def layer_norm(xp: Backend, x: Array, weight: Any = None, bias: Any = None, dim: Axis = -1, eps: float = 1e-5) -> Array:
    """(x - mean) / sqrt(variance + eps) along `dim`, times a weight, plus a bias, for numbers of any size.

    Along the channels of an image it is the norm of each pixel, at any spatial size.

    Args:
        x: any shape; where it is empty so is the result.
        weight, bias: shapes that broadcast to that of x, or None.
        dim: the dimension or dimensions to normalize over.
        eps: added to the variance.
    """
    (x,), dtype = lift(xp, x)
    axes = (dim,) if isinstance(dim, int) else dim
    if size_of(xp.shape(x)) == 0:
        result = x * 1.0
    else:
        scale = scale_of(xp, xp.amax(xp.abs(xp.stop(x)), axes, True))
        # Small numbers stay small beside eps.
        scale = xp.where(scale > 1, 1.0, scale)
        scaled = x * scale
        scaled = scaled - xp.sum(scaled, axes, True) / size_of(xp.shape(x), axes)
        variance = xp.sum(scaled * scaled, axes, True) / size_of(xp.shape(x), axes)
        small = eps * scale * scale
        tiny = LIMITS[xp.dtype(x)].tiny
        result = scaled / xp.sqrt(variance + xp.where(small < tiny, tiny, small))
    if weight is not None:
        result = saturated(xp, result * xp.cast(xp.asarray(weight, x), xp.dtype(x)))
    if bias is not None:
        result = saturated(xp, result + xp.cast(xp.asarray(bias, x), xp.dtype(x)))
    return settle(xp, result, dtype)


def prior_bias(prior: float) -> float:
    """Return -log((1 - prior) / prior), the logit of a probability in (0, 1) (Lin et al., 2017)."""
    if not 0 < prior < 1:
        raise ValueError(f"prior: must be in (0, 1), is {prior}")
    return -math.log((1 - prior) / prior)
