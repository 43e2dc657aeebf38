"""`whynan.jax.watch`: watches a training step in a program that runs by itself."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import jax

from whynan.api.engine import Engine
from whynan.api.report import Report
from whynan.api.watch import NonFiniteError
from whynan.launch import host as launch_host
from whynan.launch.options import Policy, RunOptions
from whynan.pipeline import Session
from whynan.records import Incident


@overload
def watch(step: Callable[..., Any]) -> "WatchedStep": ...
@overload
def watch(
    *,
    policy: Policy = "stop",
    budget: float = 60.0,
    prove: bool = True,
    out: str | Path | None = None,
    on_incident: Callable[[dict[str, Any]], None] | None = None,
) -> "Callable[[Callable[..., Any]], WatchedStep]": ...
def watch(step: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Watch an update step: find the operation, the line, the sample and the cause of its first NaN or Inf.

        @whynan.jax.watch
        @jax.jit
        def update(params, batch): ...

    `policy` is what happens at an incident: "stop" raises NonFiniteError with the report, "recover" returns what was
    before the step in the place of what it made, "observe" explains and changes nothing. `budget` bounds the seconds
    spent on one incident, `prove=False` leaves the experiments out, `out` is a folder for report.json and report.html,
    `on_incident` gets each incident. Results are looked at when they are there: a failure is raised by one of the next
    calls, or by `.report`, which waits for the last of them.
    """
    frame = sys._getframe(1)
    if step is None:
        return functools.partial(_watched, filename=frame.f_code.co_filename, **options)
    return _watched(step, filename=frame.f_code.co_filename, **options)


def _watched(step: Callable[..., Any], filename: str, **options: Any) -> "WatchedStep":
    return WatchedStep(step, filename, **options)


class WatchedStep:
    """A step that is watched. `close` ends that; the report stays."""

    def __init__(
        self,
        step: Callable[..., Any],
        filename: str,
        policy: Policy = "stop",
        budget: float = 60.0,
        prove: bool = True,
        out: str | Path | None = None,
        on_incident: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        functools.update_wrapper(self, step, updated=())
        self.options = RunOptions(
            out=Path(out).absolute() if out is not None else Path(),
            policy=policy,
            prove=prove,
            budget=budget,
            argv=tuple(sys.argv),
        )
        self.on_incident = on_incident
        self.session = Session(self.options)
        record = self.session.record
        self.session.record = lambda incident: self._recorded(record, incident)  # type: ignore[method-assign]
        launch_host.install()
        Engine.know(filename)
        self.session.attach_jax(jax)
        self.host: Any = self.session.adapters["jax"].host  # type: ignore[attr-defined]
        self.host.run.stopped = self._stopped
        self._step = self.host.watch.watched(step)
        self._is_open = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    @property
    def report(self) -> Report:
        """Return what has been found so far, the last call included."""
        if self._is_open and not self.host.run.is_over:
            self.host.watch.poll(wait=True)
        return Report(self.session.recording(None), (Path.cwd(),))

    def close(self) -> None:
        """Stop watching."""
        if self._is_open:
            self._is_open = False
            for adapter in self.session.adapters.values():
                adapter.detach()
            if self.options.out != Path():
                self.report.save(self.options.out)

    def _recorded(self, record: Callable[[Incident], None], incident: Incident) -> None:
        record(incident)
        if self.on_incident is not None:
            self.on_incident(incident.to_json())
        if self.options.out != Path():
            Report(self.session.recording(None), (Path.cwd(),)).save(self.options.out)

    def _stopped(self) -> NonFiniteError:
        self.close()
        return NonFiniteError(self.report)
