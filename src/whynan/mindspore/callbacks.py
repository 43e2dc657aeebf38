"""`whynan.mindspore.Watch`: watches `Model.train` in a program that runs by itself."""

import sys
from typing import Any, Unpack

import mindspore
from mindspore.train import Callback

from whynan.api import Report
from whynan.api.trainers import Options, Standing
from whynan.errors import UsageError


class Watch(Callback):
    """Watch a `Model.train`: find the operation, the line, the sample and the cause of its first NaN or Inf.

    `policy` is what happens at an incident: "stop" raises NonFiniteError with the report, "recover" skips the batch and
    goes on, "observe" explains and changes nothing. `budget` bounds the seconds spent on one incident, `prove=False`
    leaves the experiments out, `out` is a folder for report.json and report.html, `on_incident` gets each incident.

        model.train(10, dataset, callbacks=[whynan.mindspore.Watch()], dataset_sink_mode=False)

    Works in PyNative and in graph mode, where it takes a step apart in PyNative mode. Make it before the model where
    you can: lines of layers are known if they were made after it. Raises UsageError for a MindSpore that is not
    watched, and when training begins in sink mode, where no batch passes through Python.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__()
        self._standing = Standing(sys._getframe(1).f_code.co_filename, **options)
        self._standing.session.attach_mindspore(mindspore)
        if not self._standing.watches("mindspore"):
            raise UsageError(f"whynan.mindspore.Watch does not work with MindSpore {mindspore.__version__}")

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return self._standing.report

    def on_train_begin(self, run_context: Any) -> None:
        """Refuse sink mode: the batches stay on the device then."""
        if run_context.original_args().get("dataset_sink_mode"):
            self.close()
            raise UsageError("whynan.mindspore.Watch needs the batches: train with dataset_sink_mode=False")

    def on_train_end(self, run_context: Any) -> None:
        """End with the training: everything is as it was, the report stays."""
        self.close()

    def close(self) -> None:
        """Stop watching; the report stays."""
        self._standing.close()
