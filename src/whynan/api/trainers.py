"""Watches for programs that run by themselves: in a trainer's callback, around a step, by attachment; in notebooks."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from whynan.api import Report
from whynan.api.watch import Engine, Event, NonFiniteError
from whynan.launch import Policy, RunOptions
from whynan.launch import host as launch_host
from whynan.launch.host import Unwind
from whynan.launch.rewrite import rewrite
from whynan.pipeline import Session
from whynan.records import Incident

OnIncident = Callable[[dict[str, Any]], None]


class Options(TypedDict, total=False):
    """`policy` is what happens at an incident, `budget` bounds the seconds spent on one, `prove=False` leaves the
    experiments out, `out` is a folder for report.json and report.html, `on_incident` gets each incident."""

    policy: Policy
    budget: float
    prove: bool
    out: str | Path | None
    on_incident: OnIncident | None


def _run_options(policy: Policy, budget: float, prove: bool, out: str | Path | None) -> RunOptions:
    place = Path(out).absolute() if out is not None else Path()
    return RunOptions(out=place, policy=policy, prove=prove, budget=budget, argv=tuple(sys.argv))


class Standing:
    """A session that an object of the user's program holds. `filename` is the file that the object was made in."""

    def __init__(
        self,
        filename: str,
        policy: Policy = "stop",
        budget: float = 60.0,
        prove: bool = True,
        out: str | Path | None = None,
        on_incident: OnIncident | None = None,
    ) -> None:
        self.options = _run_options(policy, budget, prove, out)
        self.on_incident = on_incident
        self.session = Session(self.options)
        record = self.session.record
        self.session.record = lambda incident: self._recorded(record, incident)  # type: ignore[method-assign]
        self.host: Any = None
        self.is_open = True
        launch_host.install()
        Engine.know(filename)

    def watches(self, framework: str) -> bool:
        """Take the adapter of a framework that has been attached; False where there is none."""
        adapter: Any = self.session.adapters.get(framework)
        if adapter is None:
            return False
        self.host = adapter.host
        self.host.run.stopped = self._stopped
        return True

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return Report(self.session.recording(None), (Path.cwd(),))

    def close(self) -> None:
        """Stop watching; the report stays."""
        if not self.is_open:
            return
        self.is_open = False
        for adapter in self.session.adapters.values():
            adapter.detach()
        if self.options.out != Path():
            self.report.save(self.options.out)

    def look(self) -> None:
        """Look at the last steps, whose results nobody has waited for."""
        poll = getattr(self.host.watch, "poll", None)
        if poll is not None and self.is_open and not self.host.run.is_over:
            poll(wait=True)

    def _recorded(self, record: Callable[[Incident], None], incident: Incident) -> None:
        record(incident)
        if self.on_incident is not None:
            self.on_incident(incident.to_json())
        if self.options.out != Path():
            self.report.save(self.options.out)

    def _stopped(self) -> NonFiniteError:
        self.close()
        return NonFiniteError(self.report)


class TrainerWatch:
    """Find the operation, the line, the sample and the cause of the first NaN or Inf of a training.

    Watches from the time it is made until the training ends or `close` is called. `policy` is what happens at an
    incident: "stop" raises NonFiniteError with the report before the update, "recover" undoes the step and goes on,
    "observe" explains and changes nothing. `budget` bounds the seconds spent on one incident, `prove=False` leaves the
    experiments out, `out` is a folder for report.json and report.html, `on_event` gets a dict for each incident.
    """

    def __init__(
        self,
        policy: Policy = "stop",
        budget: float = 60.0,
        prove: bool = True,
        out: str | Path | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        options = _run_options(policy, budget, prove, out)
        self._engine = Engine(options, on_event)
        self._engine.host.stopped = self._stopped
        self._engine.know(sys._getframe(1).f_code.co_filename)
        self._is_open = True

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return self._engine.report()

    def close(self) -> None:
        """Stop watching; the report stays."""
        if self._is_open:
            self._is_open = False
            self._engine.close()

    def _know_class_of(self, thing: Any) -> None:
        """Take the file of an object's class for the user's own code, unless it is an installed package's."""
        file = getattr(sys.modules.get(type(thing).__module__), "__file__", None)
        if file is not None and "site-packages" not in file:
            self._engine.know(file)

    def _stopped(self) -> NonFiniteError:
        report = self.report
        self.close()
        return NonFiniteError(report)


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext whynan`."""
    shell.register_magic_function(lambda line, cell: run_cell(shell, line, cell), "cell", "whynan")


def run_cell(shell: Any, line: str, cell: str) -> Report | None:
    """Run a cell under watch and return its report, which shows itself; None where the cell raised.

    `line` may hold `--policy stop|recover|observe`, `--budget SECONDS`, `--no-prove`.
    """
    import torch  # noqa: F401  the cell's own framework: without it there would be nothing to watch

    options = _options(line)
    engine = Engine(options, None)
    # IPython keeps a cell's source under this name, for tracebacks and for us.
    source = shell.transform_cell(cell)
    filename = shell.compile.cache(source, shell.execution_count, raw_code=cell)
    rewritten = rewrite(source.encode(), filename)
    engine.know(filename)
    engine.register(filename, rewritten)
    try:
        exec(rewritten.code, shell.user_ns)
    except Unwind:
        pass
    except BaseException:
        engine.close()
        raise
    report = engine.report()
    engine.close()
    return report


def _options(line: str) -> RunOptions:
    parser = argparse.ArgumentParser(prog="%%whynan")
    parser.add_argument("--policy", choices=("stop", "recover", "observe"), default="stop")
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--no-prove", action="store_true")
    given = parser.parse_args(shlex.split(line))
    return RunOptions(out=Path(), policy=given.policy, budget=given.budget, prove=not given.no_prove, argv=("cell",))
