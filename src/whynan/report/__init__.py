"""Writing to a stream that may not be able to show what we write, and what whynan is busy with meanwhile."""

import io
import os
import shutil
import sys
from types import TracebackType
from typing import IO, Self

from whynan.report.words import clean

_ASCII = {"…": "...", "→": "->", "≥": ">=", "≤": "<="}


def write_safely(text: str, file: IO[str]) -> None:
    """Write text to a stream in whatever encoding it has; a reader that went away is no error."""
    encoded = encodable(text, getattr(file, "encoding", None))
    try:
        if isinstance(file, io.TextIOWrapper):
            type(file).write(file, encoded)  # a stream's own may be put aside while a step is replayed
        else:
            file.write(encoded)
        file.flush()
    except BrokenPipeError:
        pass
    except (OSError, ValueError):
        # A full disk behind a redirection or a closed stream: the report stands in its files all the same.
        pass


def encodable(text: str, encoding: str | None) -> str:
    """Return text that the encoding can hold: our own signs in ASCII, the user's characters as escapes."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        plain = "".join(_ASCII.get(char, char) for char in text)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def is_interactive(file: IO[str]) -> bool:
    """Return whether a human watches the stream on a terminal that can move its cursor."""
    try:
        return file.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


_CLEAR = "\r\x1b[2K"


class Progress:
    """One line on standard error, "whynan: replaying step 811 ...", rewritten in place where a human watches.

    Elsewhere each stage is one plain line, without its details. Nothing is drawn in the background: a thread of ours
    would be seen by the script's own forks.
    """

    def __init__(self, file: IO[str] | None = None, is_silent: bool = False) -> None:
        # The real stream: the script's may be put aside while its step is replayed.
        self._file = None if is_silent else file if file is not None else sys.__stderr__
        self._stage: str | None = None

    def stage(self, text: str, detail: str = "") -> None:
        """Show what is being done now. A new `detail` of the same stage is shown on terminals only."""
        if self._file is None:
            return
        if is_interactive(self._file):
            self._draw(f"whynan: {text} {detail}".rstrip())
        elif text != self._stage:
            write_safely(f"whynan: {clean(text)} ...\n", self._file)
        self._stage = text

    def close(self) -> None:
        """Take the line away; what follows begins on a clean line."""
        if self._file is not None and self._stage is not None and is_interactive(self._file):
            write_safely(_CLEAR, self._file)
        self._stage = None

    def _draw(self, text: str) -> None:
        room = shutil.get_terminal_size().columns - 5
        # The first time on a line of its own: the script may have left the cursor behind a progress bar.
        start = "\n" if self._stage is None else _CLEAR
        if self._file is not None:
            write_safely(f"{start}{clean(text)[:room]} ...", self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
