"""What every adapter knows of a run: steps, history, incidents, weights; what is done at an incident; what is told.

The adapter says what a copy is and puts one back; a smaller learning rate is made by making each update a part of what
it would be, since the optimizer is not always to be seen.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from whynan.launch import RunOptions
from whynan.launch import host as launch_host
from whynan.launch.host import Unwind, tell
from whynan.live import Pulse
from whynan.records import History, Incident, Stage
from whynan.recovery import Action, Ladder, Limits
from whynan.watching import GrowthWatch, RunHistory, Trail


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


T = TypeVar("T")
ORDER: tuple[Action, ...] = ("skip-batch", "roll-back", "lower-learning-rate")
FULL_ORDER: tuple[Action, ...] = ("drop-sample", "skip-batch", "roll-back", "clip-gradients", "lower-learning-rate")
"""Where gradients and batches are in hand."""
_EVERY = 10
_KEPT = 4
_BEFORE = 3
"""A copy from the last steps may be ill already."""
_WORDS = {
    "skip-batch": "the batch was skipped, the weights are those from before the step, the run goes on",
    "drop-sample": "the batch was skipped, and another sample stands in for sample {sample} from here on",
    "clip-gradients": "the batch was skipped, and from here on the gradient norm is clipped at {norm:g}",
    "lower-learning-rate": "the batch was skipped, and updates are {factor:g} of the script's from here on",
    "roll-back": "weights and optimizer went back to step {step}; updates are {factor:g} of the script's from here on",
    "stop": "the limits of recovery are reached: stopped",
}


class Copies(Generic[T]):
    """Copies of the state: the first one, and the latest few, some steps apart."""

    def __init__(self, every: int = _EVERY, kept: int = _KEPT) -> None:
        self.every = every
        self.kept = kept
        self._held: list[tuple[int, T]] = []

    def is_due(self, step: int) -> bool:
        """Whether the state before this step is to be kept."""
        return not self._held or step >= self._held[-1][0] + self.every

    def add(self, step: int, copy: T) -> None:
        self._held.append((step, copy))
        if len(self._held) > self.kept:
            del self._held[1]

    def take(self, step: int, growing_since: int | None) -> tuple[int, T] | None:
        """Return the latest copy from before the trouble, the earliest where all are younger; later ones are dropped.

        The next call returns an earlier one, if there is any.
        """
        if not self._held:
            return None
        before = min(step - _BEFORE, growing_since if growing_since is not None else step)
        calm = [item for item in self._held if item[0] <= before] or self._held[:1]
        chosen = calm[-1]
        earlier = [item for item in self._held if item[0] < chosen[0]]
        self._held = earlier or [chosen]
        return chosen


class Recovery(Generic[T]):
    """The interventions of one run; `factor` is what part of its updates a script may make, `clip_norm` the largest
    gradient that it may use."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.ladder = Ladder(limits or Limits(order=ORDER))
        self.copies: Copies[T] = Copies()
        self.factor = 1.0
        self.clip_norm: float | None = None

    def choose(
        self,
        step: int,
        incident: Incident,
        growing_since: int | None,
        can_slow: bool = True,
        can_drop: bool = False,
        can_clip: bool = True,
    ) -> tuple[Action, str, T | None]:
        """Return what is done about an incident, in words too, and the copy to go back to where it is that.

        `can_slow` is False where neither state nor update is in sight: then the step is skipped. `can_drop` says
        whether a sample can be told in later batches, `can_clip` whether gradients are in sight.
        """
        cause = incident.causes[0].slug if incident.causes else None
        samples = [sample for sample in incident.samples if sample.position is not None] if can_drop else []
        action = self.ladder.next(step, cause, bool(samples))
        at: int | None = None
        copy: T | None = None
        if action not in ("drop-sample", "skip-batch", "stop") and not can_slow:
            action = "skip-batch"
        if action == "clip-gradients" and not can_clip:
            action = "lower-learning-rate"
        if action == "clip-gradients":
            self.clip_norm = self.ladder.limits.clip_norm
        if action == "roll-back":
            found = self.copies.take(step, growing_since)
            if found is None:
                action = "lower-learning-rate"
            else:
                at, copy = found
        if action in ("roll-back", "lower-learning-rate"):
            self.factor *= self.ladder.limits.learning_rate_factor
        named = [str(s.index) if s.index is not None else f"{s.position} of the batch" for s in samples]
        words = _WORDS[action].format(factor=self.factor, step=at, norm=self.clip_norm or 0.0, sample=", ".join(named))
        return action, words, copy


class Watching(Protocol):
    """What is patched while a run is watched."""

    on_first_gradient: Callable[[], None] | None

    def install(self) -> None:
        """Begin to watch."""

    def uninstall(self) -> None:
        """Put all back."""


class CommonAdapter:
    """A framework's side of a watched run; `loops` answers the rewritten loops, `watch` may be None."""

    framework: str

    def __init__(self, run: Run, loops: launch_host.PlainHost, watch: Watching | None = None) -> None:
        self.run = run
        self.loops = loops
        self.watch = watch
        if watch is not None:
            watch.install()

    def claim_loops(self) -> None:
        launch_host.set_host(self.loops)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        """Have `tell` called at the first gradient; where there are none to be seen, the loops are what there is."""
        if self.watch is not None:
            self.watch.on_first_gradient = tell

    def n_steps(self) -> int:
        return self.run.n_steps

    def live(self, pulse: Pulse) -> None:
        self.run.history.on_step = pulse.step

    def history(self) -> dict[str, tuple[float, ...]]:
        return self.run.history.as_dict()

    def growing_since(self) -> int | None:
        return self.run.growth.since

    def skipped(self) -> tuple[Incident, ...]:
        return tuple(self.run.skipped)

    def pending_incident(self) -> Incident | None:
        return None

    def detach(self) -> None:
        self.run.is_over = True
        if self.watch is not None:
            self.watch.uninstall()
        if launch_host.current_host() is self.loops:
            launch_host.set_host(launch_host.PlainHost())


def attached(kind: Callable[[Any], Any], host: Any, keras: Any) -> Any:
    """Return Keras' side of a run on this host's framework; None where this Keras can't be watched."""
    try:
        return kind(host)
    except (ImportError, AttributeError) as error:
        launch_host.tell(f"watching Keras {keras.__version__} is not possible", error)
        return None
