"""A change of one line as a unified diff that parses."""

import ast
import difflib
import linecache
from pathlib import Path

_LIKE = 0.45
"""A suggestion that has less in common with the line than this is no new form of it."""


def patched_source(file: str, line: int, new: str) -> str | None:
    """Return the file's source with one line replaced, indented as it was; None where that is no program."""
    lines = linecache.getlines(file)
    if not 1 <= line <= len(lines) or "\n" in new.strip():
        return None
    old = lines[line - 1]
    stripped = old.strip()
    if not stripped or stripped == new.strip() or "..." in new:
        return None
    if difflib.SequenceMatcher(None, stripped, new.strip()).ratio() < _LIKE:
        return None
    indent = old[: len(old) - len(old.lstrip())]
    changed = [*lines]
    changed[line - 1] = indent + new.strip() + ("\n" if old.endswith("\n") else "")
    source = "".join(changed)
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    return source


def unified_diff(file: str, line: int, new: str, name: str | None = None) -> str | None:
    """Return the change as `patch -p1` takes it; None where the new line does not make a program."""
    source = patched_source(file, line, new)
    if source is None:
        return None
    shown = (name or Path(file).name).lstrip("/")
    old = "".join(linecache.getlines(file))
    diff = difflib.unified_diff(
        old.splitlines(keepends=True), source.splitlines(keepends=True), f"a/{shown}", f"b/{shown}", n=2
    )
    return "".join(part if part.endswith("\n") else f"{part}\n\\ No newline at end of file\n" for part in diff)
