"""`whynan.mindspore.Watch`: watches `Model.train` in a program that runs by itself."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore
from mindspore.train import Callback

from whynan.api.engine import Engine
from whynan.api.report import Report
from whynan.api.watch import NonFiniteError
from whynan.errors import UsageError
from whynan.launch import host as launch_host
from whynan.launch.options import Policy, RunOptions
from whynan.pipeline import Session
from whynan.records import Incident


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

    def __init__(
        self,
        policy: Policy = "stop",
        budget: float = 60.0,
        prove: bool = True,
        out: str | Path | None = None,
        on_incident: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
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
        Engine.know(sys._getframe(1).f_code.co_filename)
        self.session.attach_mindspore(mindspore)
        if "mindspore" not in self.session.adapters:
            raise UsageError(f"whynan.mindspore.Watch does not work with MindSpore {mindspore.__version__}")
        self.host: Any = self.session.adapters["mindspore"].host  # type: ignore[attr-defined]
        self.host.run.stopped = self._stopped
        self._is_open = True

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return Report(self.session.recording(None), (Path.cwd(),))

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
            self.report.save(self.options.out)

    def _stopped(self) -> NonFiniteError:
        self.close()
        return NonFiniteError(self.report)
