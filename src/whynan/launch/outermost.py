"""Frames that look like the place from which the interpreter starts a program.

A warning whose `stacklevel` reaches beyond the program's first frame is attributed by plain python to "sys", line 1.
Under whynan there are frames beyond; those next to the program carry the same name.
"""

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

_SOURCE = "def enter(run, args, more): return enter(run, args, more - 1) if more else run(*args)"
_FILENAME = "sys" if sys.version_info < (3, 12) else "<sys>"
_N_FRAMES = 4


def _make_enter() -> Callable[..., Any]:
    names: dict[str, Any] = {"__name__": "sys"}
    exec(compile(_SOURCE, _FILENAME, "exec", dont_inherit=True), names)
    enter: Callable[..., Any] = names["enter"]
    return enter


_enter = _make_enter()
ENTER_CODE: CodeType = _enter.__code__


def call_outermost(run: Callable[..., Any], *args: Any) -> Any:
    """Call `run(*args)`, where `run` starts the user's program."""
    return _enter(run, args, _N_FRAMES - 1)
