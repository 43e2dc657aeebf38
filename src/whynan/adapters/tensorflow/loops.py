"""Eager loops with a tape: the iteration itself is the step that is run again."""

import ast
import linecache
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any

from whynan.adapters.common.arrays import to_numpy
from whynan.adapters.common.batch import batch_size
from whynan.adapters.common.body import Again
from whynan.adapters.common.loops import Pass
from whynan.adapters.numpy.instrument import instrumented
from whynan.adapters.numpy.record import Recorder
from whynan.adapters.numpy.replay import answering
from whynan.adapters.tensorflow.closure import Closure, map_structure, rows_of, unique_variables, variable_name
from whynan.launch.rewrite import LoopSite
from whynan.snapshot.carried import find_loop, target_names

TAPE = re.compile(r"GradientTape|\.gradient\(|apply_gradients|_step\(|\btape\b|loss")


class LoopClosure(Closure):
    """One iteration of the user's loop. `change` is made to the names that its header has bound."""

    def __init__(self, current: Pass, known: list[Any], change: Callable[[Any], Any] | None = None,
                 again: Again | None = None, picks: "Picks | None" = None) -> None:  # fmt: skip
        self.picks = picks
        self.current = current
        self.again = again or Again(current.owner.site, current.frame, current.before)
        self.known = known
        self.change = change

    def with_picks(self, run: Callable[["LoopClosure"], Any]) -> "LoopClosure":
        """Return the same step with what its body cuts out of arrays as its batch, where the header binds none."""
        if self.parts:
            return self
        made = LoopClosure(self.current, self.known, None, self.again, Picks(self.current))
        made.stage = self.stage
        run(made)
        return made if made.parts else self

    def call(self) -> Any:
        if self.picks is not None and (self.change is not None or not self.picks.items):
            return self.picks.run(self.change)
        targets = self._targets()

        def changed(values: dict[str, Any]) -> None:
            for name in targets if self.change is not None else ():
                values[name] = map_structure(values[name], self.change)

        return self.again.run(_nothing, lambda values: None, changed)

    def inputs(self) -> list[tuple[str, Any]]:
        if self.picks is not None:
            return list(self.picks.items.values())
        return [(name, self.again.before.values[name]) for name in self._targets()]

    def with_rows(self, rows: Sequence[int]) -> "LoopClosure":
        size = batch_size(self.parts)
        return self.mapped(lambda value: rows_of(value, rows, size))

    def mapped(self, change: Callable[[Any], Any]) -> "LoopClosure":
        made = LoopClosure(self.current, self.known, change, self.again, self.picks)
        made.stage = self.stage
        return made

    def variables(self) -> list[tuple[str, Any]]:
        return unique_variables([(variable_name(v), v) for v in self.known])

    def _targets(self) -> list[str]:
        return [name for name in target_names(self.current.owner.site) if name in self.again.before.values]


class Picks:
    """Rows that a body cuts out of NumPy arrays, `x[start : start + 32]`: found by running it with its operations
    handed to a recorder, by the array's id."""

    def __init__(self, current: Pass) -> None:
        self.again = Again(current.owner.site, current.frame, current.before, instrumented)
        self.items: dict[int, tuple[str, Any]] = {}

    def run(self, change: Callable[[Any], Any] | None) -> Any:
        """Run the body; without a change note what is cut out."""
        recorder = Recorder(self.again.function, is_tracing=False)
        if change is not None:

            def changed(owner: Any, index: Any, result: Any) -> Any:
                return to_numpy(change(result)) if id(owner) in self.items else result

            recorder.on_rows = changed
        try:
            return self.again.run(answering(recorder), lambda values: None)
        finally:
            if change is None:
                self._note(recorder)

    def _note(self, recorder: Recorder) -> None:
        names = {id(value): name for name, value in self.again.before.values.items()}
        names |= {id(array): name for name, array in self.again.before.reached.arrays.values()}
        indices = {id(index) for _, _, index, _ in recorder.gathers}
        for _, owner, _, result in recorder.gathers:
            if id(result) not in indices and id(owner) in names:
                self.items[id(owner)] = names[id(owner)], result


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
