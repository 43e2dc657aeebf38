"""The user's source around a line, as it was when the run failed, or nothing."""

import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whynan.report.words import clean

_AROUND = 2
_LARGEST_FILE = 4_000_000
"""Bytes. Source files are small; whatever is larger is not worth reading for five lines."""


@dataclass(frozen=True)
class SourceRow:
    """One line of source with its number; `is_origin` where the report points at it."""

    number: int | None
    code: str
    is_origin: bool = False


def read_context(origin: Mapping[str, Any], roots: Sequence[Path]) -> tuple[SourceRow, ...]:
    """Return the origin's line with two lines around it; the recorded line alone where the file has changed or gone."""
    if origin.get("context"):
        return tuple(_recorded_row(row, origin) for row in origin["context"])
    line = origin.get("line")
    lines = _read_lines(origin, roots) if origin.get("file") and isinstance(line, int) else None
    if lines is None or line is None:
        return (SourceRow(line, clean(first_line(origin)), True),) if origin.get("code") else ()
    first = max(1, line - _AROUND)
    rows = [SourceRow(n, clean(lines[n - 1]), n == line) for n in range(first, min(len(lines), line + _AROUND) + 1)]
    return _dedented(rows)


def add_contexts(report: Mapping[str, Any], roots: Sequence[Path] = (Path(),)) -> None:
    """Put the source around each origin into the report: it is shown later where the file is not, or has changed."""
    for incident in (*report["incidents"], *report["skipped"]):
        origin = incident["origin"]
        rows = read_context(origin, roots) if origin else ()
        if len(rows) > 1:
            origin["context"] = [{"line": row.number, "code": row.code} for row in rows]


def _recorded_row(row: Mapping[str, Any], origin: Mapping[str, Any]) -> SourceRow:
    return SourceRow(row["line"], clean(row["code"]), row["line"] == origin.get("line"))


def first_line(origin: Mapping[str, Any]) -> str:
    """Return the first line of the recorded code, without the space around it."""
    return str(origin.get("code") or "").strip().split("\n")[0].strip()


def _read_lines(origin: Mapping[str, Any], roots: Sequence[Path]) -> list[str] | None:
    for root in roots:
        try:
            path = root / str(origin["file"])
            if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
                continue
            with tokenize.open(path) as file:
                lines = file.read().splitlines()
        except (OSError, SyntaxError, ValueError):
            continue
        if _is_as_recorded(lines, origin):
            return lines
    return None


def _is_as_recorded(lines: Sequence[str], origin: Mapping[str, Any]) -> bool:
    """Return whether the file still has the recorded code on that line: it may have been edited since the run."""
    line = int(origin["line"])
    return 1 <= line <= len(lines) and first_line(origin) in lines[line - 1]


def _dedented(rows: Sequence[SourceRow]) -> tuple[SourceRow, ...]:
    indents = [len(row.code) - len(row.code.lstrip()) for row in rows if row.code.strip()]
    margin = min(indents, default=0)
    return tuple(SourceRow(row.number, row.code[margin:].rstrip(), row.is_origin) for row in rows)
