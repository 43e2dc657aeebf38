"""What the user's live frames hold that a sample may have come from."""

import ast
import functools
import linecache
import sys
from collections.abc import Callable
from typing import Any

from whynan.adapters.common.arrays import is_array
from whynan.launch.host import is_user_file

_MAX_GROUP = 8


def user_spaces() -> list[dict[str, Any]]:
    """Return the names that the user's frames on the stack hold, local and global ones, each dictionary once."""
    found: dict[int, dict[str, Any]] = {}
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            for space in (frame.f_locals, frame.f_globals):
                found.setdefault(id(space), space)
        frame = frame.f_back  # type: ignore[assignment]
    return list(found.values())


def user_values() -> list[Any]:
    """Return what the names of the user's frames stand for."""
    return [value for space in user_spaces() for value in list(space.values())]


def user_arrays(
    skip: Callable[[str, Any], bool] = lambda name, value: False, batch_size: int | None = None
) -> list[Any]:
    """Return arrays, and groups of them, that the user's frames on the stack hold; `skip` tells which are no source.

    With `batch_size` what a loop binds and is of that length is the batch itself, and no source of it either.

    Of a frame's arrays those come first which the loop that it is in speaks of: a batch is taken from the training
    part, and not from the whole that this part was cut from. What the loop itself binds, the batch, comes last.
    """
    found: list[Any] = []
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            spaces = [frame.f_locals] if frame.f_locals is frame.f_globals else [frame.f_locals, frame.f_globals]
            items = [item for space in spaces for item in list(space.items())]
            read, bound = _names_in_loop(frame.f_code.co_filename, frame.f_lineno)
            for name, value in sorted(items, key=lambda item: 2 if item[0] in bound else item[0] not in read):
                if skip(name, value) or (name in bound and batch_size is not None and _length(value) == batch_size):
                    continue
                if isinstance(value, (tuple, list)) and 0 < len(value) <= _MAX_GROUP and all(map(is_array, value)):
                    found.append(tuple(value))
                elif isinstance(value, dict) and 0 < len(value) <= _MAX_GROUP and all(map(is_array, value.values())):
                    found.append(tuple(value.values()))
                elif is_array(value):
                    found.append(value)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _length(value: Any) -> int | None:
    """Return the number of rows of an array, or of the first of a group of them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return int(value.shape[0]) if is_array(value) else None


@functools.lru_cache(maxsize=64)
def _names_in_loop(file: str, line: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that the innermost loop around a line reads, and those that it binds; none without a loop."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return frozenset(), frozenset()
    loops = [node for node in ast.walk(tree)
             if isinstance(node, (ast.For, ast.While)) and node.lineno <= line <= (node.end_lineno or 0)]  # fmt: skip
    if not loops:
        return frozenset(), frozenset()
    inner = max(loops, key=lambda node: node.lineno)
    names = [node for node in ast.walk(inner) if isinstance(node, ast.Name)]
    bound = frozenset(node.id for node in names if isinstance(node.ctx, ast.Store))
    return frozenset(node.id for node in names) - bound, bound
