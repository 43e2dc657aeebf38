"""The scale of activations layer by layer, what initialization did to it, and LSUV, without a framework."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KAIMING = ("relu", "leaky_relu", "gelu", "silu", "elu")
XAVIER = ("tanh", "sigmoid", "linear")


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
