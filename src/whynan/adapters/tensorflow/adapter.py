"""Attach to a program that has imported TensorFlow, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from whynan.adapters.common.run import CommonAdapter, attached
from whynan.adapters.tensorflow.host import TensorFlowHost
from whynan.launch.options import RunOptions
from whynan.records import Incident


class TensorFlowAdapter(CommonAdapter):
    """TensorFlow's side of a watched run, with Keras on top of it where the program imports that."""

    framework = "tensorflow"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = TensorFlowHost(options, record)
        super().__init__(self.host.run, self.host.loops, self.host.watch)
        self.keras: Any = None

    def attach_keras(self, keras: Any) -> None:
        """Called when the program has imported Keras with this backend."""
        if self.keras is None and not self.run.is_over:
            from whynan.adapters.keras.tensorflow import KerasOnTensorFlow

            self.keras = attached(KerasOnTensorFlow, self.host, keras)

    def versions(self) -> dict[str, str]:
        return {"tensorflow": tf.__version__} | ({"keras": self.keras.version} if self.keras is not None else {})

    def device(self) -> str | None:
        return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
