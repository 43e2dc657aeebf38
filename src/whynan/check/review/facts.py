"""What the review is made of, besides the graph and its ranges."""

from dataclasses import dataclass, field

from whynan.check.context import Context
from whynan.check.graph import Place


@dataclass(frozen=True)
class LayerFacts:
    """One layer's output in one step."""

    path: str
    kind: str
    rms: float
    zeros: float
    """The share of elements that are exactly 0."""
    saturated: float
    """Of a sigmoid or tanh: the share of elements at its ends."""


@dataclass
class OptimizerFacts:
    """An optimizer as it was before its first step."""

    kind: str
    place: Place | None
    rates: tuple[float, ...]
    eps: tuple[float, ...]
    decays: tuple[float, ...]
    momentum: float
    dtypes: tuple[str, ...]
    weight_norm: float
    gradient_norm: float
    n_parameters: int
    n_without_gradient: int = 0
    later_rates: list[float] = field(default_factory=list)


@dataclass
class StepFacts:
    """All that a check of the review may look at."""

    context: Context
    optimizers: tuple[OptimizerFacts, ...] = ()
    layers: tuple[LayerFacts, ...] = ()
    losses: tuple[float, ...] = ()
    is_scaled: bool = False
    clipped_before_unscale: Place | None = None
    n_clipped: int = 0
    rate_test: tuple[tuple[float, float], ...] = ()
    """(learning rate, loss after one step with it) on the recorded batch, the smallest first; shorter steps than the
    configured one only where that does harm."""
