"""Watches the loops of a NumPy program that train: their losses, and the arrays that they update."""

import linecache
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.explain import Step, evidence_of, incident_of
from whynan.adapters.common.positions import short_path
from whynan.adapters.common.prove import prove
from whynan.adapters.common.run import ACTIONS, Run
from whynan.adapters.numpy.experiments import Bench, Window
from whynan.adapters.numpy.explain import Explained, Seen, explain
from whynan.adapters.numpy.replay import Again
from whynan.adapters.numpy.state import Reached, State
from whynan.launch.host import COLD, PlainHost, is_user_file, set_site, tell
from whynan.launch.options import RunOptions
from whynan.launch.rewrite import LoopSite
from whynan.records import Evidence, Incident, ReplayResult, SourceLine, Symptom
from whynan.snapshot.carried import find_loop
from whynan.snapshot.python_state import frame_values
from whynan.report.progress import Progress
from whynan.watch.budget import Budget

LOSS = re.compile(r"(?<![a-z])(loss|losses|cost|costs|nll|mse|err|error|errors|objective|energy|elbo|history)(?![a-z])",
                  re.IGNORECASE)  # fmt: skip
_UPDATES = re.compile(r"-=|backward|grad|update|\.step\(|train_step|\bsgd\b|adam|\blr\b|learning_rate|\bfit|\bstep\(")
_LEARNING_PASSES = 2


class Site:
    """One loop. Loops that cannot train are left alone."""

    def __init__(self, site: LoopSite, host: "NumpyHost") -> None:
        self.site = site
        self.host = host
        self.n_passes = 0
        self.updated: set[str] | None = None
        self.learned: set[str] = set()
        self.began = 0.0

    def __iter__(self) -> "Pass | Iterator[tuple[()]]":
        host = self.host
        if host.active is not None or host.is_replaying or host.run.is_over:
            return iter(COLD)
        frame = sys._getframe(1)
        while not is_user_file(frame.f_code.co_filename):
            frame = frame.f_back  # type: ignore[assignment]
        return host.begin(self, frame)


class Pass:
    """One iteration of a loop that may train."""

    __slots__ = ("before", "frame", "owner", "started")

    def __init__(self, owner: Site, frame: FrameType, before: State) -> None:
        self.owner = owner
        self.frame = frame
        self.before = before
        self.started = False

    def __iter__(self) -> "Pass":
        return self

    def __next__(self) -> tuple[()]:
        if not self.started:
            self.started = True
            return ()
        self.owner.host.ended(self)
        raise StopIteration

    def __del__(self) -> None:
        # The loop was left by `break`, `return` or an exception.
        if self.owner.host.active is self:
            self.owner.host.active = None


class NumpyHost(PlainHost):
    """The adapter's host."""

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.run = Run(options, record)
        self.active: Pass | None = None
        self.is_replaying = False
        self.is_enabled = True
        self.last_left: Pass | None = None
        self.start: dict[str, tuple[float, float, float]] | None = None
        self._norms = Budget(0.01, n_first=3, free_s=5e-5)
        self.window = Window()

    def proved(
        self, incident: Incident, evidence: Evidence, again: Again, seen: Seen, deadline: float, progress: Progress
    ) -> Incident:
        """Try the remedies of an incident."""
        return prove(incident, evidence, Bench(again, seen, self.window, deadline), deadline, progress)

    def new_site(self, site: LoopSite) -> Any:
        return Site(site, self) if may_train(site) else COLD

    def failed(self, index: int) -> bool:
        """An exception leaves an iteration: it may come from what is not finite."""
        current = self.active
        if current is None or current.owner.site.index != index or self.is_replaying or self.run.is_over:
            return False
        self.active = None
        error = sys.exc_info()[1]
        if isinstance(error, (ValueError, ArithmeticError, AssertionError, RuntimeError, SystemExit, np.linalg.LinAlgError)):
            self._look(current, frame_values(current.frame) or {}, error)
        return False

    def leave(self, value: Any = None) -> Any:
        """The body is about to be left: look at it as at its end."""
        current = self.active
        if current is not None and not self.is_replaying and sys._getframe(2) is current.frame:
            self.active = None
            self._look(current, frame_values(current.frame) or {})
        return value

    # Iterations -------------------------------------------------------------------------------------------------------

    def begin(self, owner: Site, frame: FrameType) -> Any:
        owner.n_passes += 1
        try:
            before = State(frame, None if owner.updated is None else owner.updated)
        except Exception as error:
            tell("keeping the state of an iteration failed", error)
            set_site(owner.site.index, COLD)
            return iter(COLD)
        self.window.note(before, owner.site.assigned)
        self.active = Pass(owner, frame, before)
        return self.active

    def ended(self, current: Pass) -> None:
        """The body has come to its end."""
        self.active = None
        if self.run.is_over:
            return
        owner = current.owner
        values = frame_values(current.frame) or {}
        if owner.updated is None:
            owner.learned |= current.before.changed(Reached(_public(values)))
            if owner.n_passes >= _LEARNING_PASSES:
                owner.updated = owner.learned
                if not owner.learned:
                    set_site(owner.site.index, COLD)
                    return
        self._look(current, values)
        self.run.n_steps += 1

    def _look(self, current: Pass, values: dict[str, Any], error: BaseException | None = None) -> None:
        owner = current.owner
        loss_name, loss = _loss_in(values, current.before.values, owner.site)
        if loss is not None:
            self.run.history.loss.append(loss)
        bad: tuple[str, Any] | None = None
        if loss is not None and not math.isfinite(loss):
            bad = (loss_name, loss)
        updated = owner.learned if owner.updated is None else owner.updated
        for name, array in Reached(_public(values)).arrays.values() if bad is None else ():
            if name in updated and array.dtype.kind == "f" and not all_finite(array):
                bad = (name, array)
                break
        if bad is None:
            return
        self._incident(current, bad, loss_name if bad[0] == loss_name else None, error)

    # An incident ------------------------------------------------------------------------------------------------------

    def _incident(self, current: Pass, bad: tuple[str, Any], loss_name: str | None, error: BaseException | None) -> None:
        self.is_replaying = True
        policy = self.run.options.policy
        try:
            again = Again(current.owner.site, current.frame, current.before)
            explained = explain(self, again, bad, loss_name, self.run.deadline())
        except Exception as failure:
            tell("explaining a step failed", failure)
            explained = Explained(self._unexplained(current, bad, loss_name, failure))
        finally:
            self.is_replaying = False
        if explained.incident is None:
            return
        if policy == "recover":
            current.before.restore(None)
        if policy == "observe":
            self.run.is_over = True
        self.run.take(explained.incident)

    def _unexplained(self, current: Pass, bad: tuple[str, Any], loss_name: str | None, error: Exception) -> Incident:
        site = current.owner.site
        line = SourceLine(short_path(site.filename), site.header_line, site.function,
                          linecache.getline(site.filename, site.header_line).strip())  # fmt: skip
        symptom = Symptom("loss" if loss_name else "parameter", bad[0], "nan", self.run.n_steps, None, "train", None)
        why = f"the loop's body could not be run apart: {type(error).__name__}: {error}"
        step = Step(symptom, ReplayResult(False, "none", why), line=line)
        evidence, _ = evidence_of(step)
        return incident_of(step, evidence, self.run.options.policy, ACTIONS[self.run.options.policy])


def may_train(site: LoopSite) -> bool:
    """Whether a loop's text speaks of a loss and of updates, and no loop inside of it does so as well."""
    loop = find_loop(site)
    if loop is None:
        return False
    lines = linecache.getlines(site.filename)

    def speaks(first: int, last: int) -> bool:
        text = "".join(lines[first - 1 : last])
        return bool(LOSS.search(text)) and bool(_UPDATES.search(text))

    if not speaks(loop.body[0].lineno, site.body_last_line):
        return False
    import ast

    inner = [n for node in loop.body for n in ast.walk(node) if isinstance(n, (ast.For, ast.While))]
    return not any(speaks(n.body[0].lineno, n.end_lineno or n.lineno) for n in inner)


def _public(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _loss_in(values: dict[str, Any], before: dict[str, Any], site: LoopSite) -> tuple[str, float | None]:
    """Return the loss that the iteration has computed: a number by its name, or what a list of losses ends with."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if not LOSS.search(name):
            continue
        if isinstance(value, list) and value:
            value = value[-1]
        elif name not in site.assigned:
            continue
        if isinstance(value, (float, np.floating)) or (isinstance(value, np.ndarray) and value.size == 1):
            found.append((name, float(np.asarray(value).reshape(-1)[0])))
    bad = [item for item in found if not math.isfinite(item[1])]
    if bad:
        return bad[0]
    return found[0] if found else ("loss", None)


