"""The first step, read by somebody who has seen many: what remarks are made of, and all of them in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from whynan.check.context import Context
from whynan.check.graph import Node, Place
from whynan.check.suspects import Finding, Severity

_SEVERITY = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class LayerFacts:
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


def relevant(context: Context, *ops: str) -> Iterator[Node]:
    """Yield the operations of these names that reach the loss."""
    found = context.graph.relevant()
    return (n for n in context.graph.nodes if n.op in ops and n.index in found and n.phase == "forward")


def finding(
    check: str, severity: Severity, message: str, at: Node | OptimizerFacts | None = None, **about: str | None
) -> Finding:
    place = at.place if at is not None else None
    return Finding(check, severity, message, place.line if place else None, place.file if place else None, **about)


Remark = Callable[[StepFacts], Iterator[Finding]]
_REMARKS: list[Remark] = []


def remark(function: Remark) -> Remark:
    _REMARKS.append(function)
    return function


def review(facts: StepFacts) -> list[Finding]:
    """Return what every remark has to say, worst first; one that fails is passed over."""
    from whynan.check.review import losses, parameters  # noqa: F401

    found: list[Finding] = []
    for find in _REMARKS:
        try:
            found += find(facts)
        except (ArithmeticError, ValueError, IndexError, KeyError, TypeError, AttributeError):
            continue
    unique = {(f.check, f.file, f.line, f.message): f for f in found}
    return sorted(unique.values(), key=lambda f: (_SEVERITY[f.severity], f.check, f.line or 0))
