"""A patch as text, tried: the function that holds the line runs from the patched source for one attempt."""

import gc
from types import CodeType, FunctionType
from typing import Any

from whynan.trace.graph import Frame


class PatchedFunction:
    """While entered, the functions made of one code object run another."""

    def __init__(self, old: CodeType, new: CodeType) -> None:
        self.old = old
        self.new = new
        self.functions: list[FunctionType] = []

    @property
    def n_applied(self) -> int:
        return len(self.functions)

    def __enter__(self) -> None:
        self.functions = [f for f in gc.get_referrers(self.old) if isinstance(f, FunctionType)]
        for function in self.functions:
            function.__code__ = self.new

    def __exit__(self, *exception: object) -> None:
        for function in self.functions:
            function.__code__ = self.old


def patched_function(source: str, frame: Frame, running: list[Any]) -> PatchedFunction | None:
    """Return the frame's function from another source; None where that is not possible.

    It is not where the function is running, because the loop itself stands in it, or where the patch changes what it
    closes over.
    """
    if frame.function == "<module>" or any(code is frame.code for code in running):
        return None
    try:
        module = compile(source, frame.file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    new = _like(module, frame.code)
    if new is None or new.co_freevars != frame.code.co_freevars:
        return None
    return PatchedFunction(frame.code, new)


def _like(code: CodeType, wanted: CodeType) -> CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if (constant.co_qualname, constant.co_firstlineno) == (wanted.co_qualname, wanted.co_firstlineno):
                return constant
            found = _like(constant, wanted)
            if found is not None:
                return found
    return None
