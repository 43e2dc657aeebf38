"""A run is watched, replayed, traced, sliced, diagnosed and reported. The first file to read.

`start` is called before the user's program runs, `finish` after it has ended. Between the two an adapter does its work:
it is attached when the program imports its framework, and hands over each incident as it is explained.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import whynan
from whynan import replay
from whynan.diagnosis.growth import find_divergence
from whynan.errors import OutputError
from whynan.launch import RunOptions, imports, spawned
from whynan.launch.host import Unwind, tell
from whynan.launch.imports import Ownership, own_imports
from whynan.launch.spawned import Spawned, report_of_children
from whynan.live import Pulse, StatusLine, TensorBoard
from whynan.records import Incident, Outcome, Recording, RunInfo
from whynan.report import Progress

STOPPED = 3


class Adapter(Protocol):
    """What a framework's adapter offers once it is attached."""

    framework: str

    def versions(self) -> dict[str, str]:
        """Return the framework's version by its name."""

    def device(self) -> str | None:
        """Return the device that the model is on."""

    def n_steps(self) -> int:
        """Return how many optimizer steps were made."""

    def live(self, pulse: Pulse) -> None:
        """Tell the pulse of each step from now on."""

    def history(self) -> dict[str, tuple[float, ...]]:
        """Return the series "loss", "grad_norm", "lr", "scale"."""

    def growing_since(self) -> int | None:
        """Return the step at which steady growth of the loss was certain; None where there was none."""

    def skipped(self) -> tuple[Incident, ...]:
        """Return incidents that the script itself handled and survived."""

    def pending_incident(self) -> Incident | None:
        """Return an incident that nothing has come of yet when the program ends."""

    def claim_loops(self) -> None:
        """Answer the script's loops from now on."""

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        """Have `tell` called at the first gradient that the program takes with this framework."""

    def detach(self) -> None:
        """Undo everything that watching has set up."""


class Session:
    """One watched run."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.began = time.monotonic()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.root = Path.cwd()
        self.incidents: list[Incident] = []
        self.adapters: dict[str, Adapter] = {}
        self.leading: Adapter | None = None
        self.loops = Ownership()
        self.keras: Any = None
        self.is_finished = False
        self.pid = os.getpid()
        self.request = replay.requested()
        self.streams = replay.Streams(self.request)
        self.environment = dict(os.environ)
        self.pulse = Pulse()
        self.is_child = False
        self.has_children = False
        """Whether the program has started processes that are watched, too."""
        self.began_at = time.time()

    def become_child(self) -> None:
        """This process was started by the watched program: its parent reports where no incident is met here."""
        self.is_child = True
        self.pid = os.getpid()

    @property
    def adapter(self) -> Adapter | None:
        """The adapter whose framework trains: of several the one that has made steps, else the loops' owner."""
        if self.leading is not None:
            return self.leading

        def rank(adapter: Adapter) -> tuple[int, bool]:
            return adapter.n_steps(), adapter.framework == self.loops.owner

        return max(self.adapters.values(), key=rank, default=None)

    @adapter.setter
    def adapter(self, adapter: Adapter | None) -> None:
        self.leading = adapter
        self.adapters = {adapter.framework: adapter} if adapter is not None else {}

    def attach_tensorflow(self, module: Any) -> None:
        """Called when the program has imported tensorflow."""
        if self._is_refused("tensorflow", module):
            return
        with own_imports():
            from whynan.adapters.tensorflow.host import TensorFlowAdapter

        self._attach(TensorFlowAdapter(self.options, self.record))

    def attach_jax(self, module: Any) -> None:
        """Called when the program has imported jax."""
        if self._is_refused("jax", module):
            return
        with own_imports():
            from whynan.adapters.jax.adapter import JaxAdapter

        self._attach(JaxAdapter(self.options, self.record))

    def attach_mindspore(self, module: Any) -> None:
        """Called when the program has imported mindspore."""
        if self._is_refused("mindspore", module):
            return
        with own_imports():
            from whynan.adapters.mindspore.host import MindSporeAdapter

        self._attach(MindSporeAdapter(self.options, self.record))

    def attach_numpy(self, module: Any) -> None:
        """Called when the program has imported numpy; a framework that imports it takes over."""
        if self.loops.owner is not None or self._is_refused("numpy", module):
            return
        with own_imports():
            from whynan.adapters.numpy.host import NumpyAdapter

        self._attach(NumpyAdapter(self.options, self.record))

    def attach_keras(self, module: Any) -> None:
        """Called when keras and its backend have been imported."""
        if self._is_refused("keras", module):
            return
        self.keras = module
        attach = getattr(self.adapters.get(module.backend.backend()), "attach_keras", None)
        if attach is not None:
            with own_imports():
                attach(module)
            if module.backend.backend() == "torch":
                self._claim(self.adapters["torch"])

    @staticmethod
    def _is_refused(framework: str, module: Any) -> bool:
        """Whether the framework's version is none that is watched; says so."""
        from whynan.adapters import refusal

        why = refusal(framework, str(module.__version__))
        if why is not None and sys.__stderr__ is not None:
            print(f"whynan: {why}", file=sys.__stderr__)
        return why is not None

    def _attach(self, adapter: Adapter) -> None:
        """Begin to watch a framework. The script's loops are answered by one of them only."""
        # Newer ones come first: where none has made a step, the program's own import is the outer one.
        self.adapters = {adapter.framework: adapter, **self.adapters}
        adapter.when_it_trains(lambda: self._claim(adapter))
        if self.pulse:
            adapter.live(self.pulse)
        if self.loops.falls_to(adapter.framework):
            self._claim(adapter)
        if self.keras is not None:
            self.attach_keras(self.keras)

    def _claim(self, adapter: Adapter) -> None:
        """Let the script's loops be this adapter's; NumPy's own watch ends with the first framework that trains."""
        if self.loops.owner == adapter.framework:
            return
        self.loops.owner = adapter.framework
        first = self.adapters.pop("numpy", None) if adapter.framework != "numpy" else None
        if first is not None:
            first.detach()
        adapter.claim_loops()

    def attach_torch(self, module: Any) -> None:
        """Called when the program has imported torch."""
        with own_imports():
            from whynan.adapters.torch.adapter import TorchAdapter

        adapter = TorchAdapter(self.options, self.record)
        adapter.host.preliminary = self._save_preliminary
        adapter.on_adopted = self.become_child
        if not self.is_child and self.request is None:
            Spawned(self.options, self).install()
            spawned.watch_ray(self.options, self)
        self._attach(adapter)
        if self.request is not None:
            adapter.trace_inline(self.request)

    def record(self, incident: Incident) -> None:
        self.incidents.append(incident)
        if self.options.policy != "stop" and not getattr(self.adapter, "rank", int)():
            self._save(self.recording(None))  # the run goes on, and may be killed before its end
        if self.request is not None and incident.replay.reproduced:
            replay.answer(self.request, incident)

    def _save_preliminary(self, incident: Incident) -> None:
        """Write what is known while it is being explained: this process may be ended before it has its answer."""
        self._save(replace(self.recording(None), incidents=(*self.incidents, incident), outcome="non-finite"))

    def finish(self, exit: BaseException | None) -> int | None:
        """Write the report and say what was found. Returns the exit status where it isn't the script's own."""
        if self.is_finished or os.getpid() != self.pid:  # a fork's end is not the run's
            return None
        self.is_finished = True
        self.pulse.close()
        self.leading = self.adapter
        if self.leading is not None:
            self._take_last_incident()
        for adapter in self.adapters.values():
            adapter.detach()
        self.incidents = [self._completed(incident) for incident in self.incidents]
        recording = self.recording(exit)
        if self._speaks(recording):
            self._save(recording)
            self._show(recording)
            if self.request is None:
                self._hand_on(recording)
        getattr(self.adapter, "meet_after_saving", bool)()
        if self._was_stopped_in_child():
            return STOPPED
        is_stopped = bool(self.incidents) and (isinstance(exit, Unwind) or self._ended_by_itself(exit))
        return STOPPED if is_stopped and self.options.policy == "stop" else None

    def _speaks(self, recording: Recording) -> bool:
        """Whether this process reports: of a job's the first that has something to say; sets the folder for it."""
        rank = getattr(self.adapter, "rank", int)()
        if self.is_child and not self.incidents:
            is_claimed = getattr(self.adapter, "is_report_claimed", bool)()
            return not rank and recording.outcome == "healthy" and recording.run.steps > 0 and not is_claimed
        if self.has_children and not self.incidents:
            found = report_of_children(self.options.out, self.began_at)
            if found is not None and (found["incidents"] or recording.outcome == "healthy"):
                return False
        if self.incidents and getattr(self.adapter, "is_joint", bool)():
            return not rank
        has_something_to_say = bool(self.incidents) or (bool(rank) and recording.outcome == "script-error")
        if not has_something_to_say:
            return not rank and not getattr(self.adapter, "is_report_claimed", bool)()
        is_first = getattr(self.adapter, "claim_report", lambda: True)()
        if not is_first and not self.incidents:
            return False
        if not is_first:
            self.options = replace(self.options, out=self.options.out / f"rank-{rank}")
        return True

    def _was_stopped_in_child(self) -> bool:
        if not self.has_children or self.incidents or self.options.policy != "stop":
            return False
        found = report_of_children(self.options.out, self.began_at)
        return bool(found is not None and found["incidents"])

    def _take_last_incident(self) -> None:
        assert self.adapter is not None
        pending = self.adapter.pending_incident()
        if pending is not None:
            self.record(pending)
        if not self.incidents:
            known = getattr(self.adapter, "optimizer_facts", lambda: None)()
            history, since = self.adapter.history(), self.adapter.growing_since()
            diverging = find_divergence(history, self.adapter.n_steps(), since, known)
            if diverging is not None:
                self.record(replace(diverging, policy=self.options.policy))

    def _completed(self, incident: Incident) -> Incident:
        """Explain an incident by a second run where it could not be replayed in place and the user allows it."""
        if self.adapter is None or not self.options.rerun or self.request is not None or not replay.is_wanted(incident):
            return incident
        seconds = time.monotonic() - self.began
        with Progress() as progress:
            progress.stage(f"running the script again to trace step {incident.symptom.step}, about {seconds:.0f} s")
            step = min(incident.symptom.step, self.adapter.n_steps())
            return replay.rerun(incident, self.options, self.streams, self.root, self.environment, seconds, step)

    def _ended_by_itself(self, exit: BaseException | None) -> bool:
        """A run that only diverged has ended as it would have: its status stays its own."""
        return False

    def recording(self, exit: BaseException | None) -> Recording:
        """Return everything that is known of the run."""
        adapter = self.adapter
        versions = {"python": ".".join(map(str, sys.version_info[:3]))} | (adapter.versions() if adapter else {})
        run = RunInfo(
            argv=("-m", *self.options.argv) if self.options.module else self.options.argv,
            framework=adapter.framework if adapter else None,
            versions=versions,
            device=adapter.device() if adapter else None,
            started=self.started,
            seconds=time.monotonic() - self.began,
            steps=adapter.n_steps() if adapter else 0,
        )
        return Recording(
            version=whynan.__version__,
            run=run,
            outcome=self.outcome(exit),
            incidents=tuple(self.incidents),
            skipped=adapter.skipped() if adapter else (),
            history=adapter.history() if adapter else {},
            error=_error_of(exit),
        )

    def outcome(self, exit: BaseException | None) -> Outcome:
        if any(incident.symptom.value in ("nan", "inf", "-inf") for incident in self.incidents):
            return "non-finite"
        if self.incidents:
            return "diverging"
        return "script-error" if _error_of(exit) is not None else "healthy"

    def _save(self, recording: Recording) -> None:
        from whynan.report.saved import save

        if self.options.out == Path():  # a watch in a program of one's own that asked for no folder
            return
        try:
            save(recording, self.options.out, roots=(self.root,))
        except OutputError as error:
            print(f"whynan: {error}", file=sys.__stderr__)

    def view(self) -> None:
        """Set up what shows the run while it goes on."""
        if self.request is not None:
            return  # a second run of the script: nobody watches that one
        if self.options.status and StatusLine.wanted(sys.__stderr__):
            assert sys.__stderr__ is not None
            self.pulse.add(StatusLine(sys.__stderr__))
        if self.options.tensorboard is not None:
            try:
                with own_imports():
                    self.pulse.add(TensorBoard(self.options.tensorboard))
            except ImportError:
                tell("--tensorboard needs the package tensorboard: pip install 'whynan[tensorboard]'")

    def _hand_on(self, recording: Recording) -> None:
        """Give the report to whoever else wants it: a file or a pipe, trackers, continuous integration."""
        from whynan.live.finish import hand_on

        hand_on(recording, self.options, (self.root,))

    def _show(self, recording: Recording) -> None:
        if recording.outcome in ("healthy", "script-error"):
            return
        from whynan.report.terminal import render

        if sys.__stderr__ is None:
            return
        render(recording.to_json(), sys.__stderr__, out=self.options.out, roots=(self.root,))


def _error_of(exit: BaseException | None) -> str | None:
    if exit is None or isinstance(exit, (Unwind, KeyboardInterrupt)):
        return None
    if isinstance(exit, SystemExit):
        return None if exit.code in (None, 0) else f"SystemExit: {exit.code}"
    return f"{type(exit).__name__}: {exit}"


def start(options: RunOptions) -> Session:
    """Begin to watch; called before the user's program runs."""
    session = Session(options)
    session.view()
    spawned.install()
    imports.when_imported("torch", session.attach_torch)
    imports.when_imported("tensorflow", session.attach_tensorflow)
    imports.when_imported("numpy", session.attach_numpy)
    imports.when_imported("jax", session.attach_jax)
    imports.when_imported("keras", session.attach_keras)
    imports.when_imported("mindspore", session.attach_mindspore)
    return session


__all__ = ["STOPPED", "Adapter", "RunOptions", "Session", "start", "tell"]
