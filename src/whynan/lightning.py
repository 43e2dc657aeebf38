"""`whynan.lightning.Watch`: a callback for PyTorch Lightning's Trainer."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whynan.api.engine import Event
from whynan.api.report import Report
from whynan.api.trainers import TrainerWatch
from whynan.launch.options import Policy

if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    from pytorch_lightning.callbacks import Callback
else:
    from lightning.pytorch.callbacks import Callback


class Watch(Callback):
    """Watch a Trainer's `fit`: find the operation, the line, the sample and the cause of its first NaN or Inf.

    `policy` is what happens then: "stop" raises NonFiniteError with the report before the update, "recover" undoes the
    step and goes on, "observe" explains and changes nothing. `budget` bounds the seconds spent on one incident,
    `prove=False` leaves the experiments out, `out` is a folder for report.json and report.html, `on_event` gets a dict
    for each incident.

        trainer = Trainer(callbacks=[whynan.lightning.Watch()])
    """

    def __init__(
        self,
        policy: Policy = "stop",
        budget: float = 60.0,
        prove: bool = True,
        out: str | Path | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        caller = sys._getframe(1).f_code.co_filename
        self._watch = TrainerWatch(policy, budget, prove, out, on_event, caller)

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return self._watch.report

    def close(self) -> None:
        """Stop watching; the report stays."""
        self._watch.close()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Know the module's file as the user's code."""
        self._watch.know_class_of(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End with `fit`: everything is as it was, the report stays."""
        if stage == "fit":
            self.close()
