"""Runs the body of a loop again, apart from the user's frame: traced, or with one thing changed."""

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType
from typing import Any, TypeVar

import numpy as np

from whynan.adapters.common.quiet import quiet
from whynan.adapters.common.swap import swapped
from whynan.adapters.numpy.instrument import BODY, Body, body_of, instrumented
from whynan.adapters.numpy.record import Recorder
from whynan.adapters.numpy.state import State
from whynan.launch.rewrite import LoopSite


T = TypeVar("T")


class Again:
    """One iteration that can be run again. `before` is its state when it began."""

    def __init__(self, site: LoopSite, frame: FrameType, before: State) -> None:
        self.site = site
        self.frame = frame
        self.before = before
        self.after = State(frame, None)
        self.function = site.function.rpartition(".")[2].removesuffix(">").removeprefix("<")
        if site.function == "<module>":
            self.function = "<module>"
        self.names = tuple(name for name in before.values if name.isidentifier())
        self._bodies: dict[str | None, Body] = {}

    def run(
        self,
        recorder: Recorder,
        look: Callable[[dict[str, Any]], T],
        change: Callable[[dict[str, Any]], None] | None = None,
        sources: dict[str, str] | None = None,
    ) -> T:
        """Run the body from the state before it; return what `look` makes of its names while they are there.

        `change` may change the names before, `sources` are changed files by name. All is put back afterwards.
        """
        body = self._body((sources or {}).get(self.site.filename))
        self.before.restore(self.frame)
        values = dict(self.before.values)
        if change is not None:
            change(values)
        try:
            with quiet(), np.errstate(all="ignore"), _answered(recorder), swapped(sources or {}, instrumented):
                return look(_execute(body, self.frame, values, recorder))
        finally:
            self.after.restore(self.frame)


    def _body(self, source: str | None) -> Body:
        if source not in self._bodies:
            self._bodies[source] = body_of(self.site, self.names, True, source)
        return self._bodies[source]

    def begin_series(self, start: State) -> None:
        """Go back to an earlier state, for iterations one after the other."""
        start.restore(self.frame)

    def next_in_series(self, recorder: Recorder, values: dict[str, Any], look: Callable[[dict[str, Any]], T]) -> T:
        """Run the body once more with these names, on whatever the last run has left."""
        with quiet(), np.errstate(all="ignore"), _answered(recorder), swapped({}, instrumented):
            return look(_execute(self._body(None), self.frame, values, recorder))

    def end_series(self) -> None:
        self.after.restore(self.frame)


def _execute(body: Body, frame: FrameType, values: dict[str, Any], recorder: Recorder) -> dict[str, Any]:
    recorder.entry = sys._getframe()
    if body.parameters is None:
        space = frame.f_globals
        space.update(values)
        exec(body.code, space)
        return dict(space)
    function = FunctionType(_without_closure(body.code), frame.f_globals, BODY)
    given = {name: values.get(name) for name in body.parameters}
    result = function(**given)
    return result if isinstance(result, dict) else given


def _without_closure(code: CodeType) -> CodeType:
    if code.co_freevars:
        raise SyntaxError("the loop's body shares names with a function around it")
    return code


@contextmanager
def _answered(recorder: Recorder) -> Iterator[None]:
    space = builtins.__dict__
    space["__whynan_do__"], space["__whynan_call__"] = recorder.do, recorder.call
    try:
        yield
    finally:
        space.pop("__whynan_do__", None)
        space.pop("__whynan_call__", None)
