"""How a report names a line of the user's."""

import linecache
from pathlib import Path

from whynan.records import SourceLine
from whynan.trace.graph import Frame


def source_line(frame: Frame | None) -> SourceLine:
    """Return a frame's line as the user would name it."""
    if frame is None:
        return SourceLine(None, None, None, None)
    code = linecache.getline(frame.file, frame.line).strip()
    return SourceLine(short_path(frame.file), frame.line, frame.function, code or None)


roots: list[Path] = []
"""Working directories of the program's other processes, where this is a worker with one of its own."""


def short_path(file: str) -> str:
    """Return a path relative to the working directory where it lies below it."""
    for root in (*roots, None):
        try:
            return str(Path(file).resolve().relative_to(root or Path.cwd()))
        except (ValueError, OSError):
            continue
    return file
