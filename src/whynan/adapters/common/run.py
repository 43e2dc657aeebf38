"""What every adapter knows of a run: its steps, their history, its incidents and what it does at one, its weights."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from whynan.launch.host import Unwind, tell
from whynan.launch.options import RunOptions
from whynan.records import History, Incident
from whynan.records.incident import Stage
from whynan.watching.history import GrowthWatch, RunHistory
from whynan.watching.trail import Trail


class Run:
    """The state of a watched run that no framework has a part in."""

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.options = options
        self.record = record
        self.history = RunHistory()
        self.trail = Trail()
        self.growth = GrowthWatch()
        self.n_steps = 0
        self.is_over = False
        self.incidents: list[Incident] = []
        self.skipped: list[Incident] = []
        self.n_recovered = 0
        self.stopped: Callable[[], BaseException] = Unwind
        """Makes the exception that ends the run."""

    def note_loss(self, loss: float) -> None:
        """Take the loss of the step under way."""
        self.history.loss.append(loss)
        self.growth.add(self.n_steps, loss)

    def deadline(self) -> float:
        """Return until when one incident may be looked at, on the monotonic clock."""
        return time.monotonic() + self.options.budget

    def take(self, incident: Incident, is_last: bool = False) -> None:
        """Record an incident; raise where the run ends with it: by its policy, or as the last that recovery takes."""
        if incident.look_back is None:
            terms = {t.name: t.value for t in incident.loss_terms if incident.symptom.stage == "train"}
            seen = self.trail.look_back(incident.symptom.step, terms, "that needs PyTorch")
            incident = replace(incident, look_back=seen)
        self.record(incident)
        self.incidents.append(incident)
        if self.options.policy == "stop" or is_last:
            self.is_over = True
            raise self.stopped()
        if self.options.policy == "observe":
            self.is_over = True
        else:
            self.n_recovered += 1
            if self.n_recovered >= MAX_RECOVERED:
                self.is_over = True
                tell(f"{MAX_RECOVERED} steps were skipped; no more are looked at")


MAX_RECOVERED = 20
"""Interventions in one run."""


def action_of(policy: str, stage: Stage) -> str:
    """Return what is done about an incident, in words."""
    if stage == "validation" and policy != "observe":
        return {"stop": "stopped; a validation loss changes no weight"}.get(policy, "the run goes on")
    return ACTIONS[policy]


ACTIONS = {
    "stop": "stopped before the update could use it",
    "observe": "nothing was changed; the script went on",
    "recover": "the batch was skipped, the weights are those from before the step, the run goes on",
}


Sizes = dict[str, tuple[float, float, float]]
"""Of each weight its norm, its largest magnitude, and std * sqrt(fan_in) where it is a matrix (else 0)."""
_MAX_ELEMENTS = 50_000_000


def measure(weights: Iterable[tuple[str, Any]], is_out_first: bool = False) -> Sizes:
    """Return how large weights are; the dimensions of a kernel are (in, ..., out), or (out, in, ...)."""
    np = sys.modules["numpy"]
    found: Sizes = {}
    total = 0
    for name, weight in weights:
        total += weight.size
        if weight.size == 0 or total > _MAX_ELEMENTS:
            continue
        array = weight.astype(np.float64)
        fan_in = math.prod(array.shape[1:] if is_out_first else array.shape[:-1])
        with np.errstate(all="ignore"):
            gain = float(array.std()) * math.sqrt(fan_in) if array.ndim >= 2 and "embed" not in name.lower() else 0.0
            found[name] = (float(np.linalg.norm(array)), float(np.abs(array).max()), gain)
    return found


def history_of(run: Run, now: Sizes, first: Sizes) -> History:
    """Return the history as causes look at it; weights are those from before the failing step."""
    growth = {n: now[n][0] / first[n][0] for n in now if n in first and first[n][0] > 0 and math.isfinite(now[n][0])}
    gains = {name: gain for name, (_, _, gain) in first.items() if gain > 0 and math.isfinite(gain)}
    return History(
        loss=run.history.loss.values()[-4000:],
        grad_norm=run.history.grad_norm.values()[-4000:],
        lr=run.history.lr.values()[-4000:],
        weight_norm_start=_norm(first),
        weight_norm_now=_norm(now),
        weight_abs_max_start=max((m for _, m, _ in first.values()), default=None),
        weight_abs_max_now=max((m for _, m, _ in now.values() if math.isfinite(m)), default=None),
        largest_growth=_largest(growth),
        largest_gain_start=_largest(gains),
    )


def _norm(measured: Sizes) -> float | None:
    total = math.sqrt(sum(norm * norm for norm, _, _ in measured.values()))
    return total if measured and math.isfinite(total) else None


def _largest(values: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(values.items(), key=lambda item: -item[1])[:8])


def number_of(value: Any) -> float | None:
    """Return a setting of an optimizer's as a number, None where it is none."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
