"""`whynan.keras.Watch`: watches `fit` in a program that runs by itself."""

import sys
from typing import Any, Unpack

import keras

from whynan.api import Report
from whynan.api.trainers import Options, Standing
from whynan.errors import UsageError


class Watch(keras.callbacks.Callback):
    """Watch a model's `fit`: find the operation, the line, the sample and the cause of its first NaN or Inf.

    `policy` is what happens at an incident: "stop" raises NonFiniteError with the report, "recover" skips the batch and
    goes on, "observe" explains and changes nothing. `budget` bounds the seconds spent on one incident, `prove=False`
    leaves the experiments out, `out` is a folder for report.json and report.html, `on_incident` gets each incident.

        model.fit(x, y, callbacks=[whynan.keras.Watch()])

    Make it before the model where you can: lines of layers and losses are known if they were made after it. Works with
    the TensorFlow and the JAX backend; raises UsageError with another one.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__()
        backend = keras.backend.backend()
        if backend not in ("tensorflow", "jax"):
            raise UsageError(
                f"whynan.keras.Watch works with the tensorflow and jax backends, not {backend}; "
                "`whynan run` watches the torch one"
            )
        self._standing = Standing(sys._getframe(1).f_code.co_filename, **options)
        session = self._standing.session
        attach = {"tensorflow": session.attach_tensorflow, "jax": session.attach_jax}[backend]
        attach(sys.modules[backend])
        session.attach_keras(keras)
        if not self._standing.watches(backend):
            raise UsageError(f"whynan.keras.Watch does not work with {backend} {sys.modules[backend].__version__}")

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return self._standing.report

    def set_model(self, model: Any) -> None:
        """Called by Keras before its functions are made: those of an earlier `fit` are made anew."""
        super().set_model(model)
        model.train_function = model.test_function = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the last steps, whose results nobody has waited for."""
        self._standing.look()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """End with `fit`: everything is as it was, the report stays."""
        self._standing.look()
        self.close()

    def close(self) -> None:
        """Stop watching; the report stays."""
        self._standing.close()
