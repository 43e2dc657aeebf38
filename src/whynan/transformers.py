"""`whynan.transformers.Watch`: a callback for Transformers' Trainer."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from whynan.api.engine import Event
from whynan.api.report import Report
from whynan.api.trainers import TrainerWatch
from whynan.launch.options import Policy


class Watch(TrainerCallback):
    """Watch a Trainer's `train`: find the operation, the line, the sample and the cause of its first NaN or Inf.

    Transformers leaves a NaN out of the loss that it logs; here it is seen in the step in which it happens. `policy` is
    what happens then: "stop" raises NonFiniteError with the report before the update, "recover" undoes the step and
    goes on, "observe" explains and changes nothing. `budget` bounds the seconds spent on one incident, `prove=False`
    leaves the experiments out, `out` is a folder for report.json and report.html, `on_event` gets a dict for each
    incident. Make it before `train` is called.

        trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[whynan.transformers.Watch()])
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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Know the model's file as the user's code."""
        self._watch.know_class_of(kwargs.get("model"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End with `train`: everything is as it was, the report stays."""
        self.close()
