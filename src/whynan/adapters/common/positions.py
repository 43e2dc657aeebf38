"""The user's own line and sub-expression of an operation, from the frames on the Python stack."""

import ast
import linecache
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

from whynan.launch.host import is_user_file
from whynan.records import SourceLine
from whynan.trace.graph import Frame

_DEPTH = 400
_CALLED = re.compile(r"(\w+)\s*$")


def user_frames(frame: FrameType | None, within: FrameType | None = None) -> tuple[Frame, ...]:
    """Return the frames of the user's own code from `frame` outwards, innermost first, up to the frame `within`."""
    found = []
    for _ in range(_DEPTH):
        if frame is None or frame is within:
            break
        code = frame.f_code
        if is_user_file(code.co_filename):
            found.append(Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def calling_frame() -> Frame | None:
    """Return the innermost frame of the user's own code that now runs."""
    frames = user_frames(sys._getframe(1))
    return frames[0] if frames else None


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


@lru_cache(maxsize=4096)
def expression_of(code: CodeType, lasti: int) -> str | None:
    """Return the text of the sub-expression that an instruction of the code computes; None where it is not known."""
    positions = list(code.co_positions())
    if not 0 <= lasti // 2 < len(positions):
        return None
    line, end_line, column, end_column = positions[lasti // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(line, end_line + 1)]
    if not lines:
        return None
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][column:]
    return b"".join(lines).decode(errors="replace")


def called_name(frame: Frame | None) -> str | None:
    """Return the name of the function that the frame's current instruction calls: "norm" for `jnp.linalg.norm(x)`."""
    text = expression_of(frame.code, frame.lasti) if frame is not None else None
    if not text:
        return None
    try:
        node: ast.expr = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def keyword_line(frame: Frame | None, names: tuple[str, ...]) -> Frame | None:
    """Return the frame with its line moved to the argument of that name in the call that it stands in."""
    if frame is None:
        return None
    try:
        tree = ast.parse("".join(linecache.getlines(frame.file)))
    except (SyntaxError, ValueError):
        return frame
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.lineno <= frame.line <= (node.end_lineno or node.lineno):
            for keyword in node.keywords:
                if keyword.arg in names:
                    return Frame(frame.file, keyword.value.lineno, frame.function, frame.code, frame.lasti)
    return frame
