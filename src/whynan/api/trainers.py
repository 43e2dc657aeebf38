"""What the callbacks for trainers share: a session around a trainer's training, and its report."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whynan.api.engine import Engine, Event
from whynan.api.report import Report
from whynan.api.watch import NonFiniteError
from whynan.launch.options import Policy, RunOptions


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
        options = RunOptions(
            out=Path(out).absolute() if out is not None else Path(),
            policy=policy,
            prove=prove,
            budget=budget,
            argv=tuple(sys.argv),
        )
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
