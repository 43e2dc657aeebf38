"""The experiments of one incident: which changes are tried in which order, and what came of each."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch.attempt import Attempt, Outcome
from whynan.adapters.torch.experiments import batches, operations, training
from whynan.adapters.torch.experiments.batches import Shrinking
from whynan.adapters.torch.experiments.change import Change, patched_function
from whynan.adapters.torch.samples import SampleSearch
from whynan.diagnosis import facts
from whynan.diagnosis.rewrite import part_for
from whynan.experiments import (
    REFUSED,
    Measured,
    Verdict,
    best_verdicts,
    conclude_causes,
    conclude_remedies,
    failure_of,
    judge,
    patched_source,
    rows,
    unified_diff,
)
from whynan.launch.host import tell
from whynan.records import Evidence, Incident

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan
    from whynan.adapters.torch.sites import Event
    from whynan.adapters.torch.windows import Window

_OPERATIONS: dict[str, Callable[..., Iterator[Change]]] = {
    "double-where": operations.double_wheres,
    "skip-empty": operations.skip_empties,
    "mask-fix": operations.mask_fix,
    "stable-loss": operations.stable_loss,
    "full-precision": operations.full_precision,
    "larger-eps": operations.larger_eps,
    "larger-batch-or-groupnorm": operations.group_norm,
    "fix-custom-op": operations.fix_custom_op,
}
_BATCHES: dict[str, Callable[..., Iterator[Change]]] = {
    "clamp-or-eps": operations.clamp_or_eps,
    "drop-sample": batches.drop_sample,
    "fix-labels": batches.fix_labels,
    "normalize-inputs": batches.normalize_inputs,
    "better-init": batches.written_memory,
}
TRAINING: dict[str, Callable[..., Iterator[Change]]] = {
    "lower-learning-rate": training.lower_learning_rate,
    "warmup": training.warmup,
    "clip-gradients": training.clip_gradients,
    "better-init": training.better_init,
    "larger-eps": training.larger_optimizer_eps,
    "grad-scaler": training.grad_scaler,
}
_MAX_OF_ONE = 6
_WINDOWS_SHARE = 0.6
_EXTRA_STEPS = 20


class Experiments:
    """Tries the remedies of one diagnosis. `verdicts` grow as attempts end; `concluded` is the incident with them."""

    def __init__(
        self, plan: "Plan", traced: "Outcome", search: SampleSearch, incident: Incident, evidence: Evidence
    ) -> None:
        self.plan = plan
        self.traced = traced
        self.search = search
        self.incident = incident
        self.evidence = evidence
        self.verdicts: list[Verdict] = []
        self.notes: list[str] = []
        self.later: list[Change] = []
        self.patches: dict[str, bool] = {}
        """Whether the step is finite with a remedy's own line in place of the user's, where that was tried."""
        self.parts: dict[str, str] = {}
        """What of whynan's own parts made the step finite in the place of the origin's operation, by remedy."""
        self.controls: list[Measured] = []
        """Replays of several steps with nothing changed."""
        self.seconds = 0.0

    # One step -----------------------------------------------------------------------------------------------------

    def step_attempts(self) -> "Generator[Attempt, None, None]":
        """Yield attempts on the failing step alone; what needs more steps is put aside for a window."""
        began = time.monotonic()
        slugs = [remedy.slug for remedy in self.incident.remedies]
        for number, slug in enumerate(slugs):
            for change in self._numbered(slug):
                if self._is_settled(slug) and change.scope != "step":
                    continue
                if change.scope != "step":
                    self.later.append(change)
                    continue
                if self._is_settled(slug) or self.plan.is_out_of_time():
                    break
                self.plan.progress.stage("trying remedies", f"({number + 1} of {len(slugs)}: {slug})")
                yield Attempt(
                    traced=False, changed=change.names, redraws=change.drawn, mode=change.mode, is_experiment=True
                )
                self._note(change, self._measured(change, 1))
        yield from self._patch_attempts()
        yield from self._part_attempts()
        shrinking = Shrinking(self.plan, self.search)
        yield from shrinking.attempts()
        self.notes += [note for note in [shrinking.note()] if note is not None]
        self.seconds += time.monotonic() - began

    def put_aside(self) -> None:
        """Keep what takes several steps, and try nothing on the step alone."""
        for remedy in self.incident.remedies:
            self.later += [change for change in self._numbered(remedy.slug) if change.scope != "step"]

    def _numbered(self, slug: str) -> Iterator[Change]:
        for number, change in enumerate(itertools.islice(self._changes(slug), _MAX_OF_ONE)):
            change.number = number
            yield change

    def _patch_attempts(self) -> "Generator[Attempt, None, None]":
        """Yield an attempt for each confirmed remedy that is one new line of a function: with that very line."""
        record = self.traced.slice.origin if self.traced.slice is not None else None
        frame = record.stack[0] if record is not None and record.stack else None
        running = [f.f_code for f in self._frames_around()]
        for remedy in self.incident.remedies:
            place = self._file_and_line(remedy.where)
            if frame is None or place is None or remedy.patch is None or not self._is_settled(remedy.slug):
                continue
            source = patched_source(*place, remedy.patch)
            if source is None or place != (frame.file, frame.line) or self.plan.is_out_of_time():
                continue
            mode = patched_function(source, frame, running)
            if mode is not None:
                yield Attempt(traced=False, mode=mode, is_experiment=True)
                self.patches[remedy.slug] = self.plan.outcome.event is None and self.plan.outcome.error is None

    def _part_attempts(self) -> "Generator[Attempt, None, None]":
        """Yield an attempt for each confirmed remedy that a part of whynan may stand for: with that part."""
        for remedy in self.incident.remedies:
            part = part_for("torch", remedy.slug, facts.op_of(self.evidence))
            if part is None or not self._is_settled(remedy.slug) or self.plan.is_out_of_time():
                continue
            mode = operations.part_mode(self.traced, self.evidence)
            if mode is not None:
                yield Attempt(traced=False, mode=mode, is_experiment=True)
                if mode.n_applied and self.plan.outcome.event is None and self.plan.outcome.error is None:
                    self.parts[remedy.slug] = part

    def _frames_around(self) -> list[Any]:
        """Return the frames that stay on the stack while the iteration runs again."""
        frames = []
        frame: Any = self.plan.target.frame
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames

    def _changes(self, slug: str) -> Iterator[Change]:
        """Yield the changes that one remedy stands for; a remedy that can't be prepared is told and left out."""
        try:
            if slug in _OPERATIONS:
                yield from _OPERATIONS[slug](self.plan, self.traced, self.evidence)
            if slug in _BATCHES:
                yield from _BATCHES[slug](self.plan, self.traced, self.evidence, self.search)
            if slug in TRAINING:
                yield from TRAINING[slug](self.plan, self.evidence)
        except Exception as error:
            tell(f"preparing the remedy {slug} failed", error)

    def _is_settled(self, slug: str) -> bool:
        return any(verdict.slug == slug and verdict.kind == "confirmed" for verdict in self.verdicts)

    def _note(self, change: Change, measured: Measured) -> None:
        parts = ", ".join(sorted(getattr(change.mode, "parts", ())))
        words = f"{change.words} ({parts})" if parts else change.words
        self.verdicts.append(judge(change.slug, words, measured, change.patch))

    def _measured(self, change: Change, n_steps: int, growth: float | None = None) -> Measured:
        plan, outcome = self.plan, self.plan.outcome
        failure = _failure(outcome.event) if outcome.event is not None else None
        error = outcome.error
        watch = plan.host.watch
        return Measured(
            n_steps=n_steps,
            loss=watch.last_loss if failure is None else None,
            grad_norm=watch.grad_norm if failure is None else None,
            failure=failure,
            error=f"{type(error).__name__}: {str(error)[:80]}" if error is not None else None,
            n_applied=change.count(),
            growth=growth,
        )

    # Several steps ------------------------------------------------------------------------------------------------

    def wants_window(self) -> bool:
        return any(not self._is_settled(change.slug) for change in self.later) and not self.plan.is_out_of_time()

    def window_attempts(self, windows: "list[Window]") -> "Generator[Attempt, None, bool]":
        """Yield attempts over several steps; return whether the unchanged replay failed as the run had.

        The unchanged steps are the control. Of the windows the shortest is tried first for what may begin late; what
        must begin at the first step gets the one that begins there.
        """
        done = False
        for window, changes in self._assigned(windows):
            if self.plan.is_out_of_time() or not changes:
                continue
            control = yield from self._control(window)
            if control is None:
                continue
            done = True
            n_steps, seconds = control
            for change in changes:
                left = self.plan.deadline - time.monotonic()
                if self._is_settled(change.slug) or left < seconds:
                    continue
                yield from self._try_over(window, change, n_steps, min(3 * seconds + 2.0, left))
        return done

    def _assigned(self, windows: "list[Window]") -> "list[tuple[Window, list[Change]]]":
        usable = [w for w in windows if all(item.is_unchanged() for item in w.items)]
        left = self.plan.deadline - time.monotonic()
        usable = [w for w in usable if w.elapsed < _WINDOWS_SHARE * left]
        if not usable:
            return []
        first = [w for w in usable if w.n_steps == 0]
        # Before the growth, if there is such a window: a step cured from weights that are huge already says little.
        watch = self.plan.host.watch
        long = [w for w in usable if self.plan.pending.step - w.n_steps >= 3] or usable
        long = [w for w in long if watch.was_calm(w.n_steps)] or long
        late = [c for c in self.later if c.scope == "window"]
        early = [c for c in self.later if c.scope == "start"]
        # What begins late is tried from the shortest window with some steps in it; from the first step if that fails.
        rows = [(long[0], late)]
        if first:
            rows.append((first[0], early if long[0] is not first[0] else []))
            rows[0] = (rows[0][0], [*late, *early] if long[0] is first[0] else late)
            if long[0] is not first[0]:
                rows[1] = (first[0], [*early, *late])
        return rows

    def _control(self, window: "Window") -> "Generator[Attempt, None, tuple[int, float] | None]":
        """Run the steps unchanged: they must fail as they did. Return how many steps that takes, and seconds."""
        plan = self.plan
        plan.progress.stage(f"replaying the last {max(plan.pending.step - window.n_steps, 0) + 1} steps")
        began = time.monotonic()
        limit = max(2.0, 2 * window.elapsed)
        yield Attempt(traced=False, is_experiment=True, window=window, until=time.monotonic() + limit)
        seconds = time.monotonic() - began
        n_made = plan.n_steps_made()
        expected = plan.pending.step - window.n_steps
        event = plan.outcome.event
        if event is None and plan.outcome.error is None:
            self.notes.append("the steps before the failure, replayed, stayed finite: nothing was tried over them")
            return None
        is_counted = plan.host.known.optimizers and plan.pending.stage == "train" and not plan.pending.was_skipped
        if is_counted and n_made not in (expected, expected + 1):
            self.notes.append(
                f"the steps before the failure, replayed, failed after {n_made} in place of {expected}: "
                "nothing was tried over them"
            )
            return None
        if not self._is_bit_for_bit():
            self.notes.append(
                "the steps before the failure, replayed, gave losses that differ from the run's in their last digits"
            )
        failure = _failure(event) if event is not None else None
        error = plan.outcome.error
        words = f"{type(error).__name__}: {str(error)[:80]}" if error is not None else None
        self.controls.append(Measured(max(expected, 0) + 1, failure=failure, error=words))
        return max(expected, 0), seconds

    def _is_bit_for_bit(self) -> bool:
        """Whether the control made the very losses of the run. On a GPU kernels may sum in another order."""
        made = self.plan.losses_made()
        original = self.plan.losses_before()
        return not made or made == original[-len(made) :]

    def _try_over(
        self, window: "Window", change: Change, n_steps: int, seconds: float
    ) -> "Generator[Attempt, None, None]":
        plan = self.plan
        goal = n_steps + max(_EXTRA_STEPS, n_steps)
        plan.progress.stage("trying remedies", f"({change.slug}: {change.words})")
        until = time.monotonic() + seconds
        yield Attempt(
            traced=False, is_experiment=True, window=window, mode=change.mode, goal=goal, until=until, change=change
        )
        made = plan.n_steps_made()
        losses = plan.losses_made()
        growth = None
        if len(losses) > 4 and abs(losses[0]) > 0:
            growth = abs(losses[-1]) / max(abs(losses[0]), 1e-12)
        measured = self._measured(change, max(made, 1), growth)
        if measured.failure is None and measured.error is None and made < min(n_steps + 1, goal):
            self.verdicts.append(Verdict(change.slug, "inconclusive", f"{change.words}: not enough time", change.words))
            return
        watch = plan.host.watch
        if measured.failure is None and losses and not (watch.was_calm(window.n_steps) or watch.is_calm(losses[-1])):
            # The weights had grown before the window began, and nothing brought them back.
            said = f"{change.words}: finite over {made} steps, but the loss was far too large already and still is"
            self.verdicts.append(Verdict(change.slug, "inconclusive", said, change.words, None, measured))
            return
        self._note(change, measured)

    # What follows -------------------------------------------------------------------------------------------------

    def concluded(self) -> Incident:
        verdicts = best_verdicts(self.verdicts)
        remedies = conclude_remedies(self.incident.remedies, verdicts)
        remedies = tuple(self._with_diff(remedy) if remedy.proved else remedy for remedy in remedies)
        causes = conclude_causes(self.incident.causes, verdicts)
        notes = (*self.incident.notes, *dict.fromkeys(self.notes))
        table = rows(self.incident, self.verdicts, self.controls)
        return replace(self.incident, causes=causes, remedies=remedies, notes=notes, experiments=table)

    def _with_diff(self, remedy: Any) -> Any:
        """Write the patch of a remedy that helped as a unified diff, where its line can be replaced."""
        if self.patches.get(remedy.slug) is False:
            remedy = replace(remedy, patch=None)  # the operation guarded is finite, this one line is not enough
        if self.patches.get(remedy.slug):
            remedy = replace(remedy, outcome=f"{remedy.outcome}; so is it with the patch applied")
        if remedy.slug in self.parts:
            also = f"; also with {self.parts[remedy.slug]}"
            remedy = replace(remedy, outcome=f"{remedy.outcome}{also}")
        place = self._file_and_line(remedy.where)
        if remedy.patch is None or place is None or remedy.patch.startswith("--- "):
            return remedy
        try:
            diff = unified_diff(place[0], place[1], remedy.patch, remedy.where.rpartition(":")[0])
        except Exception as error:
            tell("writing a patch failed", error)
            return remedy
        return replace(remedy, patch=diff) if diff is not None else remedy

    def _file_and_line(self, where: str | None) -> tuple[str, int] | None:
        """Return the file as the interpreter knows it and the line that "train.py:57" means."""
        from whynan.launch.host import user_codes

        if where is None:
            return None
        name, _, line = where.rpartition(":")
        if not line.isdigit():
            return None
        for file in user_codes:
            if file == name or file.endswith(f"/{name}"):
                return file, int(line)
        return None


def _failure(event: "Event") -> str:
    is_refused = event.what == "input" and not event.tensors
    return REFUSED if is_refused else failure_of(event.what, event.name, event.kind)
