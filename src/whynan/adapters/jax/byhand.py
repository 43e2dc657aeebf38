"""Updates that a script makes itself, outside of anything compiled: the iteration of its loop is run again.

A derivative gives the script gradients, the script makes new parameters of them with operations that no call of ours
sees. At the end of an iteration, as often as the time allows, these are looked at; the iterations since the last look
are kept, which costs references only, since arrays of JAX's don't change.
"""

import ast
import linecache
import re
from collections import deque
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.body import Again, Reached
from whynan.adapters.common.loops import Pass, speaks_of_training
from whynan.adapters.common.run import Run
from whynan.adapters.numpy.experiments import Bench, Window
from whynan.adapters.numpy.explain import Seen, explain
from whynan.adapters.numpy.replay import Recorder, instrumented
from whynan.experiments import Measured
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident
from whynan.snapshot import NamesSnapshot, carried_names, find_loop, frame_values, target_names
from whynan.watching import Budget

_KEPT = 8
_BY_HAND = re.compile(
    r"tree_?map|tree\.map|apply_updates|tree_multimap|-=|-\s*[\w.]+\s*\*|[-+]\s*[\w.]*(rate|lr)\b", re.I
)


class JaxRecorder(Recorder):
    """Notes operations on JAX's arrays too."""

    numbers = (*Recorder.numbers, jax.Array)
    arrays = (*Recorder.arrays, jax.Array)
    framework = "jax"


def may_update(site: LoopSite) -> bool:
    """Whether a loop's text speaks of an update that the loop itself makes."""
    lines = linecache.getlines(site.filename)[site.header_line - 1 : site.body_last_line]
    return bool(_BY_HAND.search("".join(lines))) and speaks_of_training(site)


class ByHand:
    """What is known of the loop that updates by hand; it answers where an iteration is explained as NumPy's are."""

    recorder: type[Recorder] = JaxRecorder

    def __init__(self, run: Run) -> None:
        self.run = run
        self.window = Window()
        self.names: set[str] = set()
        self.passes: deque[Pass] = deque(maxlen=_KEPT)
        self.recent: deque[Pass] = deque(maxlen=_KEPT)
        self.looks = Budget(0.01, n_first=3, free_s=5e-5)
        self.is_always_looking = False

    def is_compiled(self, current: Pass, outputs: set[int]) -> bool:
        """Whether all that the iteration hands on are results of calls, by their ids: then nothing is made by hand."""
        values = frame_values(current.frame) or {}
        names = current.owner.site.assigned & current.before.values.keys()
        arrays = Reached({name: values[name] for name in names if name in values}).arrays.values()
        return all(id(a) in outputs for _, a in arrays if isinstance(a, jax.Array) and a.ndim and a.dtype.kind != "u")

    def note_given(self, current: Pass, given: set[int]) -> None:
        """Learn which names hold parameters: carried ones whose arrays, by their ids, a derivative was given."""
        site = current.owner.site
        names = (carried_names(site) & site.assigned & current.before.values.keys()) - set(target_names(site))
        for name in names - self.names:
            if any(id(leaf) in given for _, leaf in Reached({name: current.before.values[name]}).arrays.values()):
                self.names.add(name)

    def bad_after(self, current: Pass) -> tuple[Pass, int, tuple[str, Any]] | None:
        """Note an iteration that has ended. Return the first one kept that has made a parameter NaN, how many have
        run since, and that parameter; None where all is well or it is not yet time to look."""
        self.window.note(current.before, current.owner.site.assigned)
        self.recent.append(current)
        self.passes.append(current)
        if len(self.passes) < _KEPT and not self.is_always_looking and not self.looks.is_due():
            return None
        self.looks.begin()
        try:
            return self.first_bad(frame_values(current.frame) or {})
        finally:
            self.looks.end()

    def first_bad(self, values: dict[str, Any]) -> tuple[Pass, int, tuple[str, Any]] | None:
        """Look back where these values, from after the last iteration kept, hold a NaN; return as `bad_after`."""
        names, kept = self.names, list(self.passes)
        if not kept or _bad_in(values, names) is None:
            self.passes.clear()
            return None
        known = _bad_in(kept[0].before.values, names)
        for number, one in enumerate(kept):
            after = kept[number + 1].before.values if number + 1 < len(kept) else values
            bad = _bad_in(after, names)
            if bad is not None and known is None:
                self.passes.clear()
                return one, len(kept) - 1 - number, bad
        return None

    def kept(self, current: Pass) -> dict[str, Any]:
        """Return what the names that the loop carries held before an iteration; containers are copied."""
        site, values = current.owner.site, current.before.values
        names = (carried_names(site) & site.assigned & values.keys()) - set(target_names(site))
        return {name: jax.tree_util.tree_map(lambda leaf: leaf, values[name]) for name in names}

    @staticmethod
    def put_back(current: Pass, values: dict[str, Any]) -> None:
        NamesSnapshot.bind(current.frame, values)

    def slow(self, current: Pass, factor: float) -> None:
        """Make what an iteration has made of its parameters a part of what it is."""
        if factor == 1.0:
            return
        after = frame_values(current.frame) or {}

        def part(old: Any, new: Any) -> Any:
            is_array = isinstance(new, jax.Array) and new.dtype.kind in "fV" and np.shape(old) == new.shape
            return old + jax.numpy.asarray(factor, new.dtype) * (new - old) if is_array else new

        old = {name: value for name, value in self.kept(current).items() if name in self.names and name in after}
        self.put_back(current, {name: jax.tree_util.tree_map(part, value, after[name]) for name, value in old.items()})

    def explained(self, one: Pass, bad: tuple[str, Any]) -> Incident | None:
        again = Again(one.owner.site, one.frame, one.before, instrumented)
        return explain(self, again, [bad[0]], None, self.run.deadline())

    def bench_at(self, current: Pass, line: int, deadline: float) -> "HandBench | None":
        """Return what can be tried where the derivative that was asked for in this line is not finite."""
        site = current.owner.site
        loss = loss_at(site, line)
        start = self.window.start
        if loss is None or start is None:
            return None
        if current not in self.recent:
            self.window.note(current.before, site.assigned)
        again = Again(site, current.frame, start, instrumented)
        seen = Seen(JaxRecorder(again.function, is_tracing=False), [], None, loss, float("nan"))
        return HandBench(again, seen, self.window, deadline)

    def bench(self, again: Again, seen: Seen, deadline: float) -> "HandBench":
        return HandBench(again, seen, self.window, deadline)


class HandBench(Bench):
    """What can be tried where arrays can't be changed in place: other ones are put under their names."""

    def with_rate(self, factor: float) -> Measured | None:
        assigned = self.again.site.assigned

        def slower(before: dict[str, Any], arrays: dict[str, Any], values: dict[str, Any]) -> None:
            new = {id(array): before[name] + factor * (array - before[name]) for name, array in arrays.items()
                   if name in before and np.shape(before[name]) == np.shape(array)}  # fmt: skip
            for name in assigned & values.keys():
                values[name] = jax.tree_util.tree_map(lambda leaf: new.get(id(leaf), leaf), values[name])

        return self._window(after=slower)

    def unchanged(self) -> Measured | None:
        """Run the window with what is in force outside of it: clipped gradients."""
        return self._window()

    def with_init(self) -> Measured | None:
        return None

    def in_double(self) -> Measured | None:
        return None


def loss_at(site: LoopSite, line: int) -> str | None:
    """Return the name that a loop's body gives the first result of the call in a line."""
    loop = find_loop(site)
    for node in ast.walk(loop) if loop is not None else ():
        if isinstance(node, ast.Assign) and node.lineno <= line <= (node.end_lineno or line):
            target = node.targets[0]
            first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
            return first.id if isinstance(first, ast.Name) else None
    return None


def _bad_in(values: dict[str, Any], names: Any) -> tuple[str, Any] | None:
    """Return the first of the named arrays that holds a NaN, one of JAX's; an infinity may be a bound that is meant."""
    for name, array in Reached({name: values[name] for name in names if name in values}).arrays.values():
        if isinstance(array, jax.Array) and jax.numpy.issubdtype(array.dtype, np.floating):
            held = np.asarray(array)
            if not all_finite(held) and bool(np.isnan(held.astype("f8")).any()):
                return name, array
    return None
