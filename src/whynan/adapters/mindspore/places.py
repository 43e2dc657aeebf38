"""The user's lines that made cells and optimizers, and the names of cells in a model."""

import functools
import sys
import weakref
from types import FrameType
from typing import Any

from mindspore import nn

from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import source_line
from whynan.launch.host import is_user_file
from whynan.records import SourceLine
from whynan.trace.graph import Frame

_DEPTH = 40


class Places:
    """Lines by cell. Cells are held weakly."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Any], Frame]] = {}

    def install(self, patches: Patches) -> None:
        patches.replace(nn.Cell, "__init__", self._init)

    def made(self, cell: Any) -> SourceLine | None:
        """Return the line that made a cell; None where no line of the user's did."""
        known = self._made.get(id(cell))
        return source_line(known[1]) if known is not None and known[0]() is cell else None

    def _init(self, original: Any) -> Any:
        places = self

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            frame = _maker(sys._getframe(1), type(self))
            if frame is not None and len(places._made) < 20_000:
                places._made[id(self)] = (weakref.ref(self), frame)
            original(self, *args, **kwargs)

        return __init__


def _maker(frame: FrameType | None, kind: type) -> Frame | None:
    """Return the user's frame that asked for an object of the class: none of its own constructors."""
    constructors = {getattr(vars(base).get("__init__"), "__code__", None) for base in kind.__mro__}
    for _ in range(_DEPTH):
        if frame is None:
            return None
        code = frame.f_code
        if is_user_file(code.co_filename) and code not in constructors:
            return Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti)
        frame = frame.f_back
    return None


def names_of_cells(roots: list[Any]) -> dict[int, str]:
    """Return the dotted path of each cell inside the first model that holds it, by the cell's id."""
    found: dict[int, str] = {}
    for root in roots:
        for path, cell in root.cells_and_names():
            found.setdefault(id(cell), path)
    return found
