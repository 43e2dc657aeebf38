"""Attach to a program that has imported TensorFlow, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from whynan.adapters.tensorflow.host import TensorFlowHost
from whynan.launch import host as launch_host
from whynan.launch.host import tell
from whynan.launch.options import RunOptions
from whynan.live.pulse import Pulse
from whynan.records import Incident


class TensorFlowAdapter:
    """TensorFlow's side of a watched run, with Keras on top of it where the program imports that."""

    framework = "tensorflow"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = TensorFlowHost(options, record)
        self.host.watch.install()
        self.keras: Any = None

    def attach_keras(self, keras: Any) -> None:
        """Called when the program has imported Keras with this backend."""
        if self.keras is not None or self.host.run.is_over:
            return
        from whynan.adapters.keras.tensorflow import KerasOnTensorFlow

        try:
            self.keras = KerasOnTensorFlow(self.host)
        except (ImportError, AttributeError) as error:
            tell(f"watching Keras {keras.__version__} is not possible", error)

    def claim_loops(self) -> None:
        launch_host.set_host(self.host.loops)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        self.host.watch.on_first_gradient = tell

    def versions(self) -> dict[str, str]:
        versions = {"tensorflow": tf.__version__}
        if self.keras is not None:
            versions["keras"] = self.keras.version
        return versions

    def device(self) -> str | None:
        return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"

    def n_steps(self) -> int:
        return self.host.run.n_steps

    def live(self, pulse: Pulse) -> None:
        self.host.run.history.on_step = pulse.step

    def history(self) -> dict[str, tuple[float, ...]]:
        return self.host.run.history.as_dict()

    def growing_since(self) -> int | None:
        return self.host.run.growth.since

    def skipped(self) -> tuple[Incident, ...]:
        return tuple(self.host.run.skipped)

    def pending_incident(self) -> Incident | None:
        return None

    def detach(self) -> None:
        self.host.run.is_over = True
        self.host.watch.uninstall()
        if launch_host.current_host() is self.host.loops:
            launch_host.set_host(launch_host.PlainHost())
