"""One line at the bottom of the terminal: step, loss, its terms, gradient norm, and that the run is watched.

The line has the last row for itself: the terminal is told to scroll the rows above it only (DECSTBM), as package
managers do. What the script prints, progress bars and output from below Python included, goes on above as ever, and no
stream of the script is touched. Nothing is written where standard error is no terminal.
"""

import os
import sys
from typing import IO

from whynan.live.pulse import Beat
from whynan.report.output import is_interactive
from whynan.report.words import clean, short_number

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
