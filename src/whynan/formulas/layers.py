"""What layers compute, the bias of a prior, the scale of activations and what initialization did to it, LSUV."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from whynan.formulas.backend import LIMITS, Array, Axis, Backend
from whynan.formulas.numbers import lift, saturated, scale_of, settle, size_of

KAIMING = ("relu", "leaky_relu", "gelu", "silu", "elu")
XAVIER = ("tanh", "sigmoid", "linear")


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


@dataclass(frozen=True)
class LayerScale:
    """What a layer gives for a batch: mean, standard deviation, largest absolute value, share of non-finite
    elements.
    """

    name: str
    kind: str
    mean: float
    std: float
    largest: float
    non_finite: float


@dataclass(frozen=True)
class InitReport:
    """What was done to each layer, and the scale of the activations before and after where a batch was given."""

    done: dict[str, str]
    before: list[LayerScale] = field(default_factory=list)
    after: list[LayerScale] = field(default_factory=list)

    def __str__(self) -> str:
        width = max([5, *(len(name) for name in self.done), *(len(entry.name) for entry in self.after)])
        lines = [f"{'layer':{width}}  {'std before':>10}  {'std after':>10}  initialization"]
        before = {entry.name: entry for entry in self.before}
        after = {entry.name: entry for entry in self.after}
        for name in dict.fromkeys([*after, *self.done]):
            numbers = [f"{table[name].std:10.3g}" if name in table else " " * 10 for table in (before, after)]
            lines.append(f"{name:{width}}  {numbers[0]}  {numbers[1]}  {self.done.get(name, '')}".rstrip())
        return "\n".join(lines)


def scale_of_output(name: str, kind: str, output: Any) -> LayerScale:
    """Measure an array that NumPy can read, of any shape."""
    import numpy as np

    x = np.asarray(output).astype(np.float64).ravel()
    finite = x[np.isfinite(x)]
    bad = 1 - finite.size / x.size if x.size else 0.0
    if not finite.size:
        return LayerScale(name, kind, math.nan, math.nan, math.nan, bad)
    return LayerScale(name, kind, float(finite.mean()), float(finite.std()), float(np.abs(finite).max()), bad)


def nonlinearity_of(name: str) -> str:
    """Return whose initialization goes with a nonlinearity, "kaiming normal" or "xavier normal"."""
    if name not in KAIMING + XAVIER:
        raise ValueError(f"nonlinearity: {name!r} is none of {', '.join(KAIMING + XAVIER)}")
    return "kaiming normal" if name in KAIMING else "xavier normal"


def lsuv(
    measure: Callable[[], list[LayerScale]],
    rescale: dict[str, Callable[[float], None]],
    target: float,
    tolerance: float,
    rounds: int,
) -> list[LayerScale]:
    """Scale weights until each layer's output has standard deviation `target` (Mishkin & Matas, 2016).

    Args:
        measure: runs the model.
        rescale: for each layer with weights a function that multiplies them.
        target: the standard deviation, above 0.
        tolerance: how far from the target is near enough.
        rounds: tries for each layer.
    """
    if not target > 0:
        raise ValueError(f"target: must be above 0, is {target}")
    for name in dict.fromkeys(entry.name for entry in measure() if entry.name in rescale):
        for _ in range(rounds):
            now = next(entry for entry in measure() if entry.name == name)
            if not (math.isfinite(now.std) and now.std > 1e-12) or now.non_finite or abs(now.std - target) <= tolerance:
                break
            rescale[name](target / now.std)
    return measure()
