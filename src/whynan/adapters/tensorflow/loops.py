"""Eager loops with a tape: the iteration itself is the step that is run again."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from whynan.adapters.common.batch import batch_size
from whynan.adapters.common.body import Again, no_look, nothing
from whynan.adapters.common.loops import Pass, is_innermost
from whynan.adapters.tensorflow.closure import Closure, map_structure, rows_of, unique_variables, variable_name
from whynan.launch.rewrite import LoopSite
from whynan.snapshot.carried import target_names

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

        return self.again.run(nothing, no_look, changed)

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


def has_tape(site: LoopSite) -> bool:
    """Whether a loop's own text speaks of a tape or a loss; of nested ones the innermost that does is meant."""
    return is_innermost(site, TAPE.search)
