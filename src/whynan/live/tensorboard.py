"""`--tensorboard DIR`: loss, its terms, gradient norm and learning rate as scalars, the diagnosis as a text."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from whynan.live.pulse import Beat

_STUB = "tensorboard.compat.notf"
"""With this module TensorBoard takes its own file system functions and does not import TensorFlow."""


class TensorBoard:
    """Writes an event file. A second at least lies between two steps that are written. Raises ImportError."""

    interval = 1.0

    def __init__(self, folder: Path) -> None:
        with _without_tensorflow():
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._summary = Summary
            self._writer: Any = EventFileWriter(str(folder), filename_suffix=".whynan")

    def show(self, beat: Beat) -> None:
        values = {"loss": beat.loss, "gradient_norm": beat.grad_norm, "learning_rate": beat.lr, "scale": beat.scale}
        values |= {f"terms/{name}": value for name, value in beat.terms.items()}
        found = [
            self._summary.Value(tag=f"whynan/{name}", simple_value=value)
            for name, value in values.items()
            if value is not None
        ]
        self._add(self._summary(value=found), beat.step)

    def tell(self, text: str, step: int) -> None:
        """Write a text, in Markdown."""
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(
            dtype="DT_STRING", string_val=[text.encode("utf-8", "backslashreplace")], tensor_shape=shape
        )
        value = self._summary.Value(tag="whynan/report", metadata=metadata, tensor=tensor)
        self._add(self._summary(value=[value]), step)

    def _add(self, summary: Any, step: int) -> None:
        import time

        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()


@contextmanager
def _without_tensorflow() -> Iterator[None]:
    """A program that does not import TensorFlow must not get it from us."""
    is_stubbed = "tensorflow" not in sys.modules and _STUB not in sys.modules
    if is_stubbed:
        sys.modules[_STUB] = ModuleType(_STUB)
    try:
        from tensorboard.compat import tf

        _ = tf.__version__  # decided here, once
        yield
    finally:
        if is_stubbed:
            sys.modules.pop(_STUB, None)
