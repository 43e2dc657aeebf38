"""Growth: whether a run was diverging before the step failed, and runs that end finite but were on their way out."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from whynan.records import CauseFound, Evidence, Incident, OptimizerFacts, RemedyProposed, ReplayResult, Symptom

LOSS_UP = 1e3
GRADIENT_UP = 1e3
WEIGHTS_UP = 10.0
# A step counts as part of the growth when its value stands this many times above the early ones.
RISEN = 5.0


@dataclass(frozen=True)
class Growth:
    """How many times loss, gradient norm and weights have grown since the first steps; 1 where nothing is known.

    `n_risen` is how many steps in a row before the failing one stood above the early values; `jump` how many times
    the last gradient norm exceeds the ones just before it.
    """

    loss: float = 1.0
    gradient: float = 1.0
    weights: float = 1.0
    n_risen: int = 0
    n_steps: int = 0
    jump: float = 1.0

    @property
    def large(self) -> bool:
        return self.loss >= LOSS_UP or self.gradient >= GRADIENT_UP or self.weights >= WEIGHTS_UP

    @property
    def diverged(self) -> bool:
        """Large growth that went on for some steps, not one bad step."""
        return self.large and (self.n_risen >= 3 or self.weights >= 100 * WEIGHTS_UP)

    @property
    def jumped(self) -> bool:
        """One gradient out of nowhere: orders of magnitude within a step, on weights that have hardly changed."""
        return self.jump >= 1e3 and self.n_risen <= 2

    def facts(self) -> tuple[str, ...]:
        """Return the growth as facts that a reader can check against the history."""
        found = []
        if self.loss >= 10:
            found.append(f"loss: {self.loss:.3g} times its early value")
        if self.gradient >= 10:
            found.append(f"gradient norm: {self.gradient:.3g} times its early value")
        if self.weights >= 2:
            found.append(f"weight norm: {self.weights:.3g} times its start")
        if self.n_risen >= 2:
            found.append(f"growth over the last {self.n_risen} of {self.n_steps} steps")
        if self.jump >= 100:
            found.append(f"gradient norm: {self.jump:.3g} times the steps just before")
        return tuple(found)

    def sentence(self) -> str:
        parts = []
        if self.loss >= 10:
            parts.append(f"the loss {self.loss:.3g}-fold")
        if self.gradient >= 10:
            parts.append(f"the gradient norm {self.gradient:.3g}-fold")
        if self.weights >= 2:
            parts.append(f"the weights {self.weights:.3g}-fold")
        grown = " and ".join(parts) if len(parts) < 3 else f"{parts[0]}, {parts[1]} and {parts[2]}"
        return f"{grown} since the first steps" if grown else "nothing measured"


def growth_of(evidence: Evidence) -> Growth:
    history = evidence.history
    losses, gradients = finite(history.loss), finite(history.grad_norm)
    loss, n_loss = rise(losses)
    gradient, n_gradient = rise(gradients)
    # A loss that starts next to 0 doubles for nothing; a diverging one gets large as a number too.
    if not losses or max(losses[-5:]) < 10:
        loss, n_loss = 1.0, 0
    weights = 1.0
    if history.weight_norm_start and history.weight_norm_now and history.weight_norm_start > 0:
        now = history.weight_norm_now
        weights = now / history.weight_norm_start if math.isfinite(now) else 1.0
    return Growth(loss, gradient, weights, max(n_loss, n_gradient), max(len(losses), len(gradients)), jump(gradients))


def finite(series: tuple[float, ...]) -> list[float]:
    """Return the magnitudes of the finite values, oldest first."""
    return [abs(value) for value in series if math.isfinite(value)]


def rise(series: list[float]) -> tuple[float, int]:
    """Return how many times the last values exceed the early median, and for how many last steps in a row."""
    if len(series) < 2:
        return 1.0, 0
    n_early = max(1, min(20, len(series) // 5))
    early = max(median(series[:n_early]), 1e-12)
    n_risen = 0
    for value in reversed(series[n_early:]):
        if value < RISEN * early:
            break
        n_risen += 1
    return max(series[-3:]) / early, n_risen


def jump(series: list[float]) -> float:
    """Return how many times the last value exceeds the median of the ten before it."""
    if len(series) < 3:
        return 1.0
    before = median(series[-11:-1])
    return series[-1] / before if before > 0 else 1.0


_FACTOR = 1e6
_WINDOWS = 5


def find_divergence(
    history: Mapping[str, Sequence[float]],
    n_steps: int,
    since: int | None = None,
    optimizer: OptimizerFacts | None = None,
) -> Incident | None:
    """Return an incident for a run whose loss and gradient grew by six orders of magnitude, window after window.

    `since` is the step at which growth was seen while it happened, None where it was not. A weight decay of the
    `optimizer` that overshoots by itself is told before the learning rate.
    """
    loss = [abs(v) for v in history.get("loss", ()) if math.isfinite(v)]
    if len(loss) < 4 * _WINDOWS:
        return None
    medians = _window_medians(loss)
    start = max(min(medians[:2]), 1e-3)
    grew_throughout = medians[-1] >= _FACTOR * start and not any(b < a for a, b in itertools.pairwise(medians[1:]))
    if not grew_throughout and (since is None or medians[-1] < _FACTOR * start):
        return None
    norms = [v for v in history.get("grad_norm", ()) if math.isfinite(v)]
    grew = f"median loss {medians[0]:.4g} in the first fifth of the run, {medians[-1]:.4g} in the last"
    facts = [grew]
    if since is not None:
        facts.append(f"certain at step {since}: twenty losses in a row a million times the early ones, and rising")
    if len(norms) >= 2:
        facts.append(f"gradient norm {norms[0]:.4g} at first, {norms[-1]:.4g} at last")
    decays = _overshooting_decay(history, optimizer)
    return Incident(
        symptom=Symptom(
            "loss",
            "loss",
            f"{medians[-1]:.4g}",
            since if since is not None else max(n_steps - 1, 0),
            None,
            "train",
            grew,
        ),
        replay=ReplayResult(False, "none", "nothing has become non-finite yet"),
        causes=(
            *decays,
            CauseFound(
                "learning-rate-too-high",
                0.6,
                "the loss has grown steadily over the whole run",
                "Each step made the loss larger: the steps are longer than the curvature allows.",
                tuple(facts),
            ),
        ),
        remedies=(
            RemedyProposed(
                "lower-learning-rate",
                "keep lr * weight_decay well below 1" if decays else "divide the learning rate by 10",
                None,
                None,
            ),
            RemedyProposed("clip-gradients", "clip the global gradient norm", None, None),
        ),
        action="the run had ended by itself",
    )


def _overshooting_decay(
    history: Mapping[str, Sequence[float]], optimizer: OptimizerFacts | None
) -> tuple[CauseFound, ...]:
    decay = optimizer.weight_decay if optimizer is not None else None
    lr = max(history.get("lr", ()), default=0.0) or (optimizer.lr if optimizer is not None else None)
    if not decay or not lr or lr * decay < 1:
        return ()
    return (
        CauseFound(
            "excessive-regularization",
            0.9 if lr * decay >= 2 else 0.7,
            "weight decay too strong",
            f"Each step multiplies the weights by 1 - lr * weight_decay = {1 - lr * decay:.3g}.",
            (f"lr {lr:.6g}, weight_decay {decay:.6g}",),
        ),
    )


def _window_medians(values: Sequence[float]) -> list[float]:
    size = len(values) // _WINDOWS
    return [statistics.median(values[i * size : (i + 1) * size]) for i in range(_WINDOWS)]
