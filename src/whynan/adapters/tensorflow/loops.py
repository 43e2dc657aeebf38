"""Eager loops with a tape: the iteration itself is the step that is run again."""

import ast
import linecache
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any

from whynan.adapters.common.batch import batch_size
from whynan.adapters.common.body import Again
from whynan.adapters.common.loops import Pass
from whynan.adapters.tensorflow.closure import Closure, map_structure, rows_of, unique_variables, variable_name
from whynan.launch.rewrite import LoopSite
from whynan.snapshot.carried import find_loop, target_names

TAPE = re.compile(r"GradientTape|\.gradient\(|apply_gradients|_step\(|\btape\b|loss")


class LoopClosure(Closure):
    """One iteration of the user's loop. `change` is made to the names that its header has bound."""

    def __init__(self, current: Pass, known: list[Any], change: Callable[[Any], Any] | None = None,
                 again: Again | None = None) -> None:  # fmt: skip
        self.current = current
        self.again = again or Again(current.owner.site, current.frame, current.before)
        self.known = known
        self.change = change

    def call(self) -> Any:
        targets = self._targets()

        def changed(values: dict[str, Any]) -> None:
            for name in targets if self.change is not None else ():
                values[name] = map_structure(values[name], self.change)

        return self.again.run(_nothing, lambda values: None, changed)

    def inputs(self) -> list[tuple[str, Any]]:
        return [(name, self.again.before.values[name]) for name in self._targets()]

    def with_rows(self, rows: Sequence[int]) -> "LoopClosure":
        size = batch_size(self.parts)
        return self.mapped(lambda value: rows_of(value, rows, size))

    def mapped(self, change: Callable[[Any], Any]) -> "LoopClosure":
        made = LoopClosure(self.current, self.known, change, self.again)
        made.stage = self.stage
        return made

    def variables(self) -> list[tuple[str, Any]]:
        return unique_variables([(variable_name(v), v) for v in self.known])

    def _targets(self) -> list[str]:
        return [name for name in target_names(self.current.owner.site) if name in self.again.before.values]


def _nothing(stack: ExitStack, frame: FrameType) -> None:
    pass


def has_tape(site: LoopSite) -> bool:
    """Whether a loop's own text speaks of a tape or a loss; of nested ones the innermost that does is meant."""
    loop = find_loop(site)
    if loop is None:
        return False
    lines = linecache.getlines(site.filename)

    def speaks(first: int, last: int) -> bool:
        return bool(TAPE.search("".join(lines[first - 1 : last])))

    if not speaks(loop.body[0].lineno, site.body_last_line):
        return False
    inner = [n for node in loop.body for n in ast.walk(node) if isinstance(n, (ast.For, ast.While))]
    return not any(speaks(n.body[0].lineno, n.end_lineno or n.lineno) for n in inner)


def in_body(current: Pass) -> bool:
    """Whether the iteration's frame is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame is current.frame:
            return True
        frame = frame.f_back
    return False
