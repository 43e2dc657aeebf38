"""What a plan works with: the symptom that waits, an attempt and how it ended, and the decision in the end."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from whynan.adapters.torch.sites import Event, Pass
from whynan.adapters.torch.trace import Tracer
from whynan.adapters.torch.watch import Watch
from whynan.adapters.torch.window import Window
from whynan.records import Incident, Symptom
from whynan.records.recording import Stage, What
from whynan.slicing import Slice

if TYPE_CHECKING:
    from whynan.adapters.torch.experiments.change import Change
    from whynan.adapters.torch.experiments.run import Experiments
    from whynan.adapters.torch.ranks.alone import Gathered


@dataclass
class Pending:
    """A symptom that waits for the end of its iteration. `line` is where the program stood when it showed."""

    what: What
    name: str
    kind: str
    when: str
    step: int
    epoch: int | None
    stage: Stage
    target: Pass | None
    n_tensors: int
    n_events: int
    line: tuple[str, int | None] | None = None
    differentiable: bool = True
    was_skipped: bool = False
    leaves: bool = False
    error: BaseException | None = None
    grad_norm: float | None = None
    is_loss: bool = False
    missed: bool = False
    """The iteration in which it happened was over before all ranks could leave together."""
    is_alone: bool = False
    """The other ranks of the job do not hear of it: this one looks into it by itself."""
    is_early: bool = False
    """A micro-batch of this rank alone: it is explained at once, and all leave with the update."""
    inner: Incident | None = None
    """What the iteration inside told that was run again before this one."""

    @staticmethod
    def of(event: Event, target: Pass | None, watch: Watch, epoch: int | None) -> "Pending":
        step = watch.n_steps
        if event.what == "buffer" and target is not None and step > target.n_steps:
            step -= 1  # seen when its update was over
        if target is not None and (event.stage == "validation" or (step == 0 and not watch.known.optimizers)):
            step = target.owner.n_passes - 1  # updates by hand are as many as iterations
        n_events = watch.n_events - target.n_events if target is not None else 0
        return Pending(
            event.what, event.name, event.kind, event.when, step, epoch, event.stage, target, event.n_tensors, n_events,
            event.line, event.differentiable, event.was_skipped, error=event.error, grad_norm=watch.grad_norm,
            is_loss=event.is_loss,
        )  # fmt: skip

    def symptom(self) -> Symptom:
        return Symptom(self.what, self.name, self.kind, self.step, self.epoch, self.stage, self.detail())

    def detail(self) -> str:
        words = {
            "backward": "the loss before its backward pass",
            "read": "a number that the script read",
            "exit": "a loss in the script's variables",
            "exception": "an exception of the script's or of a library",
            "forward": "a running statistic after the forward pass",
        }
        return words.get(self.when, self.when)


@dataclass(frozen=True)
class Decision:
    """What the host is to do. `outer` is the iteration to replay instead, for "escalate" and "experiment"."""

    kind: Literal["stop", "continue", "recover", "innocent", "escalate", "experiment", "run-for-real", "early"]
    incident: Incident | None = None
    outer: Pass | None = None
    experiments: "Experiments | None" = None


@dataclass
class Attempt:
    """One run of the iteration again. `changed` names are bound otherwise, `redraws` is what `next` gives instead."""

    traced: bool
    changed: dict[str, Any] = field(default_factory=dict)
    redraws: list[Any] | None = None
    mode: Any = None
    """Something that is entered for the attempt."""
    is_experiment: bool = False
    """The whole iteration counts, gradients and update included, not only what leads to the symptom."""
    window: Window | None = None
    """Several iterations are run, from the window's start on; up to `goal` steps and the time `until`."""
    goal: int | None = None
    until: float | None = None
    change: "Change | None" = None
    """The remedy that it tries."""
    together: bool = False
    """All ranks run it in step, collectives included, up to the update."""
    ordered: bool = False
    """A rank has told the others to make it: all leave it at the same update, for what any of them saw."""
    gathered: "Gathered | None" = None
    """What the others gave in step: this rank runs its part of the step once more, and none of the others has to."""


@dataclass
class Outcome:
    """How an attempt ended: with which event and slice of its trace, or with the exception of the script's."""

    event: Event | None = None
    slice: Slice | None = None
    tracer: Tracer | None = None
    error: BaseException | None = None
    is_finite: bool = False
    frames: list[dict[str, Any]] = field(default_factory=list)
    terms: Any = None
