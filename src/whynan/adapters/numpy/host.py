"""Attached to a NumPy program: watches its loops that train, their losses and the arrays that they update."""

import linecache
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from whynan.adapters.common.arrays import LeftOut, all_finite, header_parts
from whynan.adapters.common.body import Again, Reached
from whynan.adapters.common.explain import Step, concluded
from whynan.adapters.common.loops import GAIN, LOSS, Loops, Pass, speaks_of_training
from whynan.adapters.common.positions import short_path
from whynan.adapters.common.run import FULL_ORDER, CommonAdapter, Recovery, Run
from whynan.adapters.numpy.experiments import Bench, Window, shorten
from whynan.adapters.numpy.explain import Seen, explain, rate_in
from whynan.adapters.numpy.replay import Recorder, instrumented
from whynan.launch import RunOptions
from whynan.launch.host import COLD, set_site, tell
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident, ReplayResult, SourceLine, Symptom
from whynan.recovery import Limits
from whynan.snapshot import frame_values
from whynan.watching import Budget

_NUMBERS_GO_WRONG = (ValueError, ArithmeticError, AssertionError, RuntimeError, SystemExit, np.linalg.LinAlgError)
_LEARNING_PASSES = 2


class NumpyHost:
    recorder = Recorder

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.run = Run(options, record)
        self.loops = Loops(lambda: self.run.is_over, self.begun, self.ended, speaks_of_training, copies_arrays=True)
        self.window = Window()
        self.recovery: Recovery[dict[str, Any]] = Recovery(Limits(order=FULL_ORDER))
        self.left_out = LeftOut()
        self.plain: tuple[float, set[str]] | None = None
        """The learning rate and the weights by which gradients are clipped."""
        self.looks = Budget(0.0005, n_first=2)

    def bench(self, again: Again, seen: Seen, deadline: float) -> Bench:
        return Bench(again, seen, self.window, deadline)

    # Iterations -------------------------------------------------------------------------------------------------------

    def begun(self, current: Pass) -> None:
        self.left_out.replace_in_header(current)
        self.window.note(current.before, current.owner.site.assigned)

    def ended(self, current: Pass, error: BaseException | None) -> None:
        owner = current.owner
        values = frame_values(current.frame) or {}
        if error is not None:
            if isinstance(error, _NUMBERS_GO_WRONG):
                self._look(current, values, error)
            return
        if owner.wanted is None:
            owner.learned |= current.before.changed(Reached(_public(values)))
            if owner.n_passes >= _LEARNING_PASSES:
                owner.wanted = owner.learned
                if not owner.learned:
                    set_site(owner.site.index, COLD)
                    return
        if self._look(current, values):
            self._slow(current, values)
            if self.run.options.policy == "recover" and self.recovery.copies.is_due(self.run.n_steps):
                updated = self._updated(current)
                kept = {name: copy for name, _, copy in current.before.copies if name in updated}
                self.recovery.copies.add(self.run.n_steps, kept)
        self.run.n_steps += 1

    # Recovery ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def _updated(current: Pass) -> set[str]:
        owner = current.owner
        return owner.learned if owner.wanted is None else owner.wanted

    def _slow(self, current: Pass, values: dict[str, Any]) -> None:
        """Make what an iteration has changed in its arrays a part of what it is."""
        if self.recovery.factor == 1.0 and self.recovery.clip_norm is None:
            return
        before = {name: copy for name, _, copy in current.before.copies}
        if self.recovery.clip_norm is not None and self.plain is not None:
            shorten(before, dict(Reached(_public(values)).arrays.values()), self.plain, self.recovery.clip_norm)
        for name, array in Reached(_public(values)).arrays.values():
            old = before.get(name)
            if name in self._updated(current) and old is not None and _fits(array, old) and array.dtype.kind == "f":
                array[...] = old + self.recovery.factor * (array - old)

    def _recovered(
        self, current: Pass, incident: Incident, plain: tuple[float, set[str]] | None
    ) -> tuple[Incident, bool]:
        """Undo the iteration and do what is next; returns whether the run ends with it."""
        parts = header_parts(current)
        action, words, copy = self.recovery.choose(
            self.run.n_steps, incident, self.run.growth.since, can_drop=bool(parts), can_clip=plain is not None
        )
        if action == "drop-sample":
            self.left_out.add(parts, incident.samples)
        elif action == "clip-gradients":
            self.plain = plain
        after = Reached(_public(frame_values(current.frame) or {}))
        current.before.restore(None)
        # A name may stand for a new array now (`w = w - rate * gradient`): that one gets the values.
        before = {name: saved for name, _, saved in current.before.copies} | (copy or {})
        for name, array in after.arrays.values():
            old = before.get(name)
            is_updated = name in self._updated(current) or current.owner.wanted is None
            if old is not None and is_updated and _fits(array, old):
                array[...] = old
        return replace(incident, action=words), action == "stop"

    def _look(self, current: Pass, values: dict[str, Any], error: BaseException | None = None) -> bool:
        """Look at an iteration's loss and at what it has updated; returns whether that is finite."""
        owner = current.owner
        loss_name, loss = _loss_in(values, current.before.values, owner.site)
        if loss is not None:
            self.run.note_loss(loss)
            rate = rate_in(values, current.frame.f_globals)
            if rate is not None:
                self.run.history.lr.append(rate)
            self.run.history.ended_step()
        if self.looks.is_due():
            self.looks.begin()
            self._note(current, values)
            self.looks.end()
        bad = [loss_name] if loss is not None and not math.isfinite(loss) else []
        # A table that starts as NaN and is filled is no weight.
        ill_before = {name for name, _, copy in current.before.copies if not all_finite(copy)}
        updated = owner.learned if owner.wanted is None else owner.wanted
        bad = bad or [
            name
            for name, array in Reached(_public(values)).arrays.values()
            if name in updated and array.dtype.kind == "f" and not all_finite(array) and name not in ill_before
        ]
        if not bad:
            return True
        self._incident(current, bad, loss_name if bad[0] == loss_name else None, error)
        return False

    def _note(self, current: Pass, values: dict[str, Any]) -> None:
        """Keep how far each array has moved, and the numbers among which the loss terms are."""
        now = {name: array for name, array in Reached(_public(values)).arrays.values() if array.dtype.kind == "f"}
        pairs = [(name, now[name], old) for name, _, old in current.before.copies if name in now and old.size]
        with np.errstate(all="ignore"):
            ratios = {
                name: float(np.linalg.norm(new - old) / norm)
                for name, new, old in pairs
                if new.shape == old.shape and (norm := np.linalg.norm(old)) > 0
            }
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, (float, np.floating))}
        self.run.trail.note(self.run.n_steps, "update_ratio", ratios)
        self.run.trail.note(self.run.n_steps, "terms", numbers)

    # An incident ------------------------------------------------------------------------------------------------------

    def _incident(self, current: Pass, bad: list[str], loss_name: str | None, error: BaseException | None) -> None:
        self.loops.is_replaying = True
        policy = self.run.options.policy
        plain = None
        try:
            again = Again(current.owner.site, current.frame, current.before, instrumented)
            incident = explain(self, again, bad, loss_name, self.run.deadline())
            plain = again.plain
        except Exception as failure:
            tell("explaining a step failed", failure)
            incident = self._unexplained(current, bad[0], loss_name, failure)
        finally:
            self.loops.is_replaying = False
        if incident is None:
            return
        is_last = False
        if policy == "recover":
            incident, is_last = self._recovered(current, incident, plain)
        if policy == "observe":
            self.run.is_over = True
        self.run.take(incident, is_last)

    def _unexplained(self, current: Pass, bad: str, loss_name: str | None, error: Exception) -> Incident:
        site = current.owner.site
        line = SourceLine(short_path(site.filename), site.header_line, site.function,
                          linecache.getline(site.filename, site.header_line).strip())  # fmt: skip
        symptom = Symptom("loss" if loss_name else "parameter", bad, "nan", self.run.n_steps, None, "train", None)
        why = f"the loop's body could not be run apart: {type(error).__name__}: {error}"
        return concluded(self.run, Step(symptom, ReplayResult(False, "none", why), "numpy", line=line))[0]


def _fits(array: Any, values: Any) -> bool:
    return bool(array.flags.writeable and array.shape == values.shape and array.dtype == values.dtype)


def _public(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _loss_in(values: dict[str, Any], before: dict[str, Any], site: LoopSite) -> tuple[str, float | None]:
    """Return the loss that the iteration has computed: a number by its name, or what a list of losses ends with."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        is_loss = bool(LOSS.search(name))
        if not is_loss and not GAIN.search(name):
            continue
        if isinstance(value, list) and value:
            value = value[-1]
        elif name not in site.assigned:
            continue
        if isinstance(value, (float, np.floating)) or (isinstance(value, np.ndarray) and value.size == 1):
            number = float(np.asarray(value).reshape(-1)[0])
            if is_loss or math.isnan(number):
                found.append((name, number))
    bad = [item for item in found if not math.isfinite(item[1])]
    if bad:
        return bad[0]
    return found[0] if found else ("loss", None)


class NumpyAdapter(CommonAdapter):
    framework = "numpy"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = NumpyHost(options, record)
        super().__init__(self.host.run, self.host.loops)

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def device(self) -> str | None:
        return "cpu"
