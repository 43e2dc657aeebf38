"""The heart beat of a watched run: after each step viewers get its numbers: a line in the terminal, TensorBoard.

The line has the last row for itself: the terminal is told to scroll the rows above it only (DECSTBM), as package
managers do. What the script prints, progress bars and output from below Python included, goes on above as ever, and no
stream of the script is touched. Nothing is written where standard error is no terminal.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Protocol

from whynan.launch.host import tell
from whynan.report import is_interactive
from whynan.report.words import clean, short_number
from whynan.watching import RunHistory


@dataclass(frozen=True)
class Beat:
    """The numbers of one step. `terms` are the summands of the loss by name, where they are known."""

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float | None
    scale: float | None
    terms: dict[str, float] = field(default_factory=dict)


class Viewer(Protocol):
    """Something that shows steps: `interval` seconds lie between two of them at least."""

    interval: float

    def show(self, beat: Beat) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """The run has ended."""


class Pulse:
    """Hands steps on to viewers. `terms_now` reads the loss terms of the step that has just been made."""

    def __init__(self, terms_now: Callable[[], dict[str, float]] | None = None) -> None:
        self.terms_now = terms_now
        self.n_steps = 0
        self._viewers: list[Viewer] = []
        self._next: list[float] = []

    def add(self, viewer: Viewer) -> None:
        self._viewers.append(viewer)
        self._next.append(0.0)

    def __bool__(self) -> bool:
        return bool(self._viewers)

    def step(self, history: RunHistory) -> None:
        """A step has been made. A viewer that fails is not asked again; the run goes on."""
        self.n_steps += 1
        now = time.monotonic()
        due = [k for k, viewer in enumerate(self._viewers) if now >= self._next[k]]
        if not due:
            return
        beat = self._beat(history)
        for k in due:
            try:
                self._viewers[k].show(beat)
            except Exception as error:
                tell(f"{type(self._viewers[k]).__name__} failed", error)
                self._next[k] = math.inf
                continue
            self._next[k] = now + self._viewers[k].interval

    def _beat(self, history: RunHistory) -> Beat:
        terms: dict[str, float] = {}
        try:
            terms = self.terms_now() if self.terms_now is not None else {}
        except Exception as error:
            tell("reading the loss terms failed", error)
            self.terms_now = None
        loss, grad_norm, lr, scale = (
            series.last() for series in (history.loss, history.grad_norm, history.lr, history.scale)
        )
        return Beat(self.n_steps - 1, loss, grad_norm, lr, scale, terms)

    def close(self) -> None:
        for viewer in self._viewers:
            try:
                viewer.close()
            except Exception as error:
                tell(f"closing {type(viewer).__name__} failed", error)
        self._viewers, self._next = [], []


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


_SAVE, _RESTORE, _CLEAR, _ALL = "\x1b7", "\x1b8", "\x1b[2K", "\x1b[r"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_LOWEST = 6
"""Rows: in a smaller window there is none to spare."""
_MOST_TERMS = 4


class StatusLine:
    """Draws the line; `close` gives the row back."""

    interval = 0.25

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._size: os.terminal_size | None = None
        self._pid = os.getpid()

    @staticmethod
    def wanted(file: IO[str] | None) -> bool:
        """Return whether there is a terminal for it. In CI, for an editor or a notebook there is none."""
        return (
            file is not None
            and is_interactive(file)
            and os.name == "posix"
            and not os.environ.get("CI")
            and not os.environ.get("INSIDE_EMACS")
        )

    def show(self, beat: Beat) -> None:
        if os.getpid() != self._pid:
            return  # a fork's row is its parent's
        size = os.get_terminal_size(self._file.fileno())
        if size.lines < _LOWEST or size.columns < 20:
            return
        text = ""
        if size != self._size:
            # A blank line first: the cursor may stand on the row that is taken away from the scrolled ones.
            text = ("\n" if self._size is None else "") + f"{_SAVE}\x1b[1;{size.lines - 1}r{_RESTORE}"
            text += "\x1b[1A" if self._size is None else ""
            self._size = size
        line = words(beat)[: size.columns - 1]
        self._write(f"{text}{_SAVE}\x1b[{size.lines};1H{_CLEAR}{_DIM}{line}{_PLAIN}{_RESTORE}")

    def close(self) -> None:
        if self._size is not None and os.getpid() == self._pid:
            lines, self._size = self._size.lines, None
            self._write(f"{_SAVE}{_ALL}\x1b[{lines};1H{_CLEAR}{_RESTORE}")

    def _write(self, text: str) -> None:
        """Write in one piece and past every buffer: half a sequence would garble the screen."""
        if self._file is sys.__stderr__:
            self._file.flush()
        os.write(self._file.fileno(), text.encode("utf-8", "replace"))


def words(beat: Beat) -> str:
    """Return "whynan watches  step 120  loss 0.53 (cls 0.2, box 0.33)  |grad| 1.2  lr 0.01"."""
    parts = [f"whynan watches  step {beat.step}"]
    if beat.loss is not None:
        terms = ", ".join(f"{clean(k)} {short_number(v)}" for k, v in list(beat.terms.items())[:_MOST_TERMS])
        parts.append(f"loss {short_number(beat.loss)}" + (f" ({terms})" if terms else ""))
    if beat.grad_norm is not None:
        parts.append(f"|grad| {short_number(beat.grad_norm)}")
    if beat.lr is not None:
        parts.append(f"lr {short_number(beat.lr)}")
    if beat.scale is not None:
        parts.append(f"scale {short_number(beat.scale)}")
    return "  ".join(parts)
