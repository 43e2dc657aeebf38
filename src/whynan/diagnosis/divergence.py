"""Runs that end finite but were on their way out: growth that no spike explains."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from whynan.records import CauseFound, Incident, RemedyProposed, ReplayResult, Symptom

_FACTOR = 1e6
_WINDOWS = 5


def find_divergence(history: Mapping[str, Sequence[float]], n_steps: int, since: int | None = None) -> Incident | None:
    """Return an incident for a run whose loss and gradient grew by six orders of magnitude, window after window.

    `since` is the step at which growth was seen while it happened, None where it was not.
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
            CauseFound(
                "learning-rate-too-high",
                0.6,
                "the loss has grown steadily over the whole run",
                "Each step made the loss larger: the steps are longer than the curvature allows.",
                tuple(facts),
            ),
        ),
        remedies=(
            RemedyProposed("lower-learning-rate", "divide the learning rate by 10", None, None),
            RemedyProposed("clip-gradients", "clip the global gradient norm", None, None),
        ),
        action="the run had ended by itself",
    )


def _window_medians(values: Sequence[float]) -> list[float]:
    size = len(values) // _WINDOWS
    return [statistics.median(values[i * size : (i + 1) * size]) for i in range(_WINDOWS)]
