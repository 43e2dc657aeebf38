"""What a plan works with: the symptom that waits, an attempt and how it ended, the decision; and silence meanwhile."""

import builtins
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from whynan.adapters.torch.sites import Event, Moment, Pass
from whynan.adapters.torch.trace import Tracer
from whynan.adapters.torch.watch import Watch
from whynan.adapters.torch.windows import Window
from whynan.launch.host import set_replaying
from whynan.records import Incident, Stage, Symptom, What
from whynan.trace import Slice

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
    moment: Moment | None = None
    """When it happened, where that was not just before it was noticed."""
    inner: Incident | None = None
    """What the iteration inside told that was run again before this one."""
    is_asked_around: bool = False
    """Whether a loop over what an iteration has made has read it: the iteration is asked whether it is a loss."""

    @staticmethod
    def of(event: Event, target: Pass | None, watch: Watch, epoch: int | None) -> "Pending":
        step = watch.n_steps
        if event.what == "buffer" and target is not None and step > target.n_steps:
            step -= 1  # seen when its update was over
        if target is not None and (event.stage == "validation" or (step == 0 and not watch.known.optimizers)):
            step = target.owner.n_passes - 1  # updates by hand are as many as iterations
        n_events = watch.n_events - target.n_events if target is not None else 0
        moment = event.moment
        if moment is not None:
            step = moment.step
            n_events = moment.n_events - target.began_at(moment) if target is not None else 0
        return Pending(
            event.what, event.name, event.kind, event.when, step, epoch, event.stage, target, event.n_tensors, n_events,
            event.line, event.differentiable, event.was_skipped, error=event.error, grad_norm=watch.grad_norm,
            is_loss=event.is_loss, moment=moment,
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


class Quiet:
    """While entered, the user's streams, loggers, warnings and newly opened files lead nowhere."""

    def __init__(self) -> None:
        self._saved: dict[str, Any] = {}
        self.entered = False

    def enter(self) -> None:
        self.entered = True
        self._saved = {
            "stdout": sys.stdout,
            "stderr": sys.stderr,
            "logging": logging.root.manager.disable,
            "filters": warnings.filters,
            "open": builtins.open,
            "save": torch.save,
            "stance": None,
            "held": _hush((sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)),
        }
        sys.stdout, sys.stderr = _Sink(sys.stdout), _Sink(sys.stderr)
        logging.disable(logging.CRITICAL)
        warnings.filters = [("ignore", None, Warning, None, 0)]
        builtins.open = _open_for_reading(builtins.open)
        torch.save = lambda *args, **kwargs: None
        if "tqdm.std" in sys.modules:  # which holds on to a stream's `write`, whatever becomes of the stream
            bar = sys.modules["tqdm.std"].tqdm
            self._saved["refresh"] = bar.refresh
            bar.refresh = lambda *args, **kwargs: None
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            self._saved["stance"] = torch.compiler.set_stance("force_eager")
            self._saved["stance"].__enter__()
        set_replaying(True)

    def leave(self) -> None:
        if not self.entered:
            return
        self.entered = False
        set_replaying(False)
        sys.stdout, sys.stderr = self._saved["stdout"], self._saved["stderr"]
        for stream in self._saved["held"]:
            vars(stream).pop("write", None)
        if "refresh" in self._saved:
            sys.modules["tqdm.std"].tqdm.refresh = self._saved["refresh"]
        logging.disable(self._saved["logging"])
        warnings.filters = self._saved["filters"]
        builtins.open = self._saved["open"]
        torch.save = self._saved["save"]
        if self._saved["stance"] is not None:
            self._saved["stance"].__exit__(None, None, None)


def _hush(streams: Iterable[Any]) -> list[Any]:
    """Silence streams for those who hold them already, as a progress bar does; `write_safely` still writes there."""
    found = [stream for stream in dict.fromkeys(streams) if isinstance(stream, io.TextIOWrapper)]
    found = [stream for stream in found if "write" not in vars(stream)]
    for stream in found:
        stream.write = len  # type: ignore[method-assign]
    return found


class _Sink(io.TextIOBase):
    """A text stream that swallows what it gets, and is otherwise like the stream whose place it takes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return bool(self._stream is not None and self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self._stream, "encoding", "utf-8"))

    @property
    def buffer(self) -> io.BytesIO:
        return io.BytesIO()


def _open_for_reading(original: Any) -> Any:
    def open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            return original(os.devnull, mode.replace("x", "w"), *args, **kwargs)
        return original(file, mode, *args, **kwargs)

    return open
