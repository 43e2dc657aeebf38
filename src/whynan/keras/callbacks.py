"""`whynan.keras.Watch`: watches `fit` in a program that runs by itself."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from whynan.api.engine import Engine
from whynan.api.report import Report
from whynan.api.watch import NonFiniteError
from whynan.errors import UsageError
from whynan.launch import host as launch_host
from whynan.launch.options import Policy, RunOptions
from whynan.pipeline import Session
from whynan.records import Incident


class Watch(keras.callbacks.Callback):
    """Watch a model's `fit`: find the operation, the line, the sample and the cause of its first NaN or Inf.

    `policy` is what happens at an incident: "stop" raises NonFiniteError with the report, "recover" skips the batch and
    goes on, "observe" explains and changes nothing. `budget` bounds the seconds spent on one incident, `prove=False`
    leaves the experiments out, `out` is a folder for report.json and report.html, `on_incident` gets each incident.

        model.fit(x, y, callbacks=[whynan.keras.Watch()])

    Make it before the model where you can: lines of layers and losses are known if they were made after it. Works with
    the TensorFlow and the JAX backend; raises UsageError with another one.
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
        backend = keras.backend.backend()
        if backend not in ("tensorflow", "jax"):
            raise UsageError(
                f"whynan.keras.Watch works with the tensorflow and jax backends, not {backend}; "
                "`whynan run` watches the torch one"
            )
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
        frame = sys._getframe(1)
        Engine.know(frame.f_code.co_filename)
        attach = {"tensorflow": self.session.attach_tensorflow, "jax": self.session.attach_jax}[backend]
        attach(sys.modules[backend])
        self.session.attach_keras(keras)
        self.host: Any = self.session.adapters[backend].host  # type: ignore[attr-defined]
        self.host.run.stopped = self._stopped
        self._is_open = True

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return Report(self.session.recording(None), (Path.cwd(),))

    def _recorded(self, record: Callable[[Incident], None], incident: Incident) -> None:
        record(incident)
        if self.on_incident is not None:
            self.on_incident(incident.to_json())
        if self.options.out != Path():
            self.report.save(self.options.out)

    def set_model(self, model: Any) -> None:
        """Called by Keras before its functions are made: those of an earlier `fit` are made anew."""
        super().set_model(model)
        model.train_function = model.test_function = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the last steps, whose results nobody has waited for."""
        self._look()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """End with `fit`: everything is as it was, the report stays."""
        self._look()
        self.close()

    def close(self) -> None:
        """Stop watching; the report stays."""
        if self._is_open:
            self._is_open = False
            for adapter in self.session.adapters.values():
                adapter.detach()
            if self.options.out != Path():
                self.report.save(self.options.out)

    def _stopped(self) -> NonFiniteError:
        self.close()
        return NonFiniteError(self.report)

    def _look(self) -> None:
        poll = getattr(self.host.watch, "poll", None)
        if poll is not None:
            poll(wait=True)
