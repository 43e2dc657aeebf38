"""The plan of one incident: which attempts the iteration is run again for, and what comes of them.

A plan is a generator of attempts. Between two of them the user's own loop runs its body; the host resumes the plan at
its end. The first attempt is traced, the next ones find the guilty sample by replacing parts of the batch.
"""

import socket
import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch import explain
from whynan.adapters.torch.attempt import Attempt, Decision, Outcome, Pending, Quiet
from whynan.adapters.torch.data.loader import BatchOrigin
from whynan.adapters.torch.experiments.run import Experiments
from whynan.adapters.torch.frames import STEP_PREFIX
from whynan.adapters.torch.ranks.alone import Gathered, Patience
from whynan.adapters.torch.sites import Event, Pass
from whynan.adapters.torch.snapshot import MEMORY_BUDGET, OptimizerCopy, Snapshot
from whynan.adapters.torch.storages import key_of
from whynan.adapters.torch.trace import Tracer
from whynan.adapters.torch.trail import BY_HAND
from whynan.adapters.torch.windows import Item
from whynan.launch.host import tell
from whynan.records import Evidence, Incident, ReplayResult
from whynan.records.recording import CauseFound, Method
from whynan.report import Progress
from whynan.snapshot import NamesSnapshot, frame_values

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


class Plan:
    """Drives the replay of one iteration for one symptom. `experiments` are those that an inner plan left to do."""

    def __init__(
        self,
        host: "TorchHost",
        target: Pass | None,
        pending: Pending,
        experiments: Experiments | None = None,
    ) -> None:
        self.host = host
        self._target = target
        self.pending = pending
        self.began: float = experiments.plan.began if experiments is not None else time.monotonic()
        self.deadline = self.began + host.options.budget
        self.outcome = Outcome()
        self.n_attempts = 0
        self.undid_step = False
        self._alone: Any = None
        self._listening: Any = None
        self.gathered: Gathered | None = None
        """What the ranks of a sharded model gave each other in the latest attempt in step."""
        self.matched: dict[int, tuple[BatchOrigin | None]] = {}
        """Which of the batches drawn lately an iteration runs on, where a trainer draws ahead."""
        self.quiet = Quiet()
        self._tracer: Tracer | None = None
        self._attempt: Attempt | None = None
        self._patience: Patience | None = None
        self._patience_s = max(host.options.budget + 10.0, 20 * target.elapsed if target is not None else 0.0)
        self._is_left = False
        self._n_redrawn = 0
        self._n_events = 0
        self.progress = Progress()
        self._generator: Generator[Attempt, None, Decision] | None = None
        from whynan.adapters.torch import driving  # which needs this module first

        if experiments is not None:
            self._generator = driving.experiments_of(self, experiments)
        elif target is not None:
            self._generator = driving.attempts(self)
        self.after: Snapshot | None = None
        self._originals: dict[str, Any] = {}
        self.evidence: Evidence | None = None
        self.known: Incident | None = None
        self._kept = host.watch.bookkeeping()
        self._n_steps = 0
        self._losses = 0
        self._n_items = 0

    @property
    def target(self) -> Pass:
        assert self._target is not None
        return self._target

    # Driven by the host -----------------------------------------------------------------------------------------------

    def next(self) -> Decision | None:
        """Go on to the next attempt (None: run the body again) or come to a decision."""
        assert self._generator is not None
        if self._goes_on_in_window():
            return None
        if self.is_ordered and not self._is_left:
            self.agree(True)  # the others are told so, whether they have come as far or not
        self.leave_attempt()
        try:
            attempt = next(self._generator)
        except StopIteration as stop:
            self.progress.close()
            return self._finish(stop.value)
        self._enter(attempt)
        return None

    def _finish(self, decision: Decision) -> Decision:
        self.host.watch.put_back(self._kept)
        if decision.kind in ("escalate", "experiment"):
            return decision
        snapshot = self.target.snapshot
        if decision.kind in ("run-for-real", "early") and snapshot is not None:
            snapshot.restore(self.target.frame, self._originals)
        elif decision.kind == "recover" and snapshot is not None and decision.incident is not None:
            snapshot.restore(self.target.frame, self._originals)
            self.host.watch.n_steps = min(self.host.watch.n_steps, self.target.n_steps)
            self.undid_step = True
            return self._recovered(decision.incident)
        elif decision.kind in ("continue", "innocent") and self.after is not None:
            self.after.restore(self.target.frame)
        return decision

    def _recovered(self, incident: Incident) -> Decision:
        """Make the intervention that is next, the step itself being undone; stop where the limits are reached."""
        recovery = self.host.recovery
        action, words = recovery.intervene(self, incident)
        why = incident.causes[0].title if incident.causes else f"{incident.symptom.what} is {incident.symptom.value}"
        recovery.log(incident.symptom.step, why, words)
        if incident.origin is not None:
            recovery.known_lines.add((incident.origin.source.file, incident.origin.source.line))
        done = replace(incident, action=words)
        return Decision("stop", done) if action == "stop" else Decision("continue", done)

    def _enter(self, attempt: Attempt) -> None:
        snapshot = self.target.snapshot
        assert snapshot is not None
        for name, value in (frame_values(self.target.frame) or {}).items() if attempt.changed else ():
            if name in attempt.changed:
                self._originals.setdefault(name, value)
        self.host.watch.put_back(self._kept)
        if not self.n_attempts:
            self._copy_optimizers(snapshot)
        if attempt.window is not None:
            first = attempt.window.items[0]
            attempt.window.restore(self.target.frame, {**first.names, **attempt.changed})
        else:
            snapshot.restore(self.target.frame, {**self._originals, **attempt.changed})
        if self.host.options.capsule and not self.n_attempts:
            self._save_capsule()
        self.outcome = Outcome(is_finite=True)
        self._attempt = attempt
        self._n_redrawn = 0
        self._is_left = False
        self.n_attempts += 1
        self._n_events = self.host.watch.n_events
        self._n_steps = self.host.watch.n_steps
        self._losses = len(self.host.watch.history.loss)
        self._n_items = 0
        self.host.watch.thorough = True
        self.quiet.enter()
        if self.host.ranks.is_among_others and (not attempt.together or attempt.gathered is not None):
            self._alone = self.host.ranks.alone(self._answered, attempt.gathered)
            self._alone.__enter__()
        if attempt.ordered:
            self.host.ranks.spread_again()
        if attempt.together and attempt.gathered is None:
            self._patience = Patience(self._patience_s)
        if attempt.together and self.host.known.is_sharded and not attempt.ordered:
            self._listening = self.host.ranks.listen(self._take_gradient)
            if attempt.gathered is None:
                self.gathered = Gathered()
                self.gathered.keep_from(self._listening)
        if attempt.mode is not None:
            attempt.mode.__enter__()
        if attempt.traced:
            self._tracer = self._new_tracer()
            self._tracer.modules.enter()
            self._tracer.__enter__()

    def _answered(self, tensor: Any) -> None:
        """A collective was answered from this rank's own values; the mean of gradients is what they always are."""
        if self._tracer is not None and not self.host.ranks.is_gradient(tensor):
            self._tracer.foreign.add(key_of(tensor))

    def _take_gradient(self, tensor: Any) -> None:
        """This rank's own gradient is non-finite before it is spread over the ranks."""
        kind = "nan" if bool(torch.isnan(tensor).any()) else "inf"
        if self.outcome.event is None:
            self._set_event(Event("gradient", "backward", [tensor], "gradient", kind))

    def _copy_optimizers(self, snapshot: Snapshot) -> None:
        """Copy what the iteration did not come to update, before an experiment can change it: weights drawn anew."""
        for optimizer in self.host.known.optimizers:
            if id(optimizer) not in snapshot.optimizers and OptimizerCopy.n_bytes(optimizer) <= MEMORY_BUDGET:
                snapshot.save_before_step(optimizer, OptimizerCopy(optimizer))

    def _save_capsule(self) -> None:
        """Write down the step as it was before it ran; of several ranks the one whose loss was bad does."""
        ranks = self.host.ranks
        if self.host.n_capsules or (ranks.is_joint and ranks.agreed and not ranks.was_bad_here):
            return
        self.host.n_capsules += 1
        try:
            from whynan.adapters.torch.capsule import save

            save(self, self.host.options.out / "capsule", self.host.options.capsule_data)
        except Exception as error:
            tell("saving the capsule failed", error)

    def _goes_on_in_window(self) -> bool:
        """Whether the attempt under way is one of several iterations and has more of them to run."""
        attempt = self._attempt
        if attempt is None or attempt.window is None or self._is_left or self.outcome.error:
            return False
        if self.outcome.event is not None and not attempt.ordered:
            return False
        items = attempt.window.items
        self._n_items += 1
        if self.is_attempt_over() or (attempt.goal is None and self._n_items >= len(items)):
            return False
        if attempt.goal is not None and self._n_items >= len(items) and not self.host.watch.n_steps > self._n_steps:
            return self._n_items < 2 * len(items) and self._bind(items[self._n_items % len(items)], False)
        return self._bind(items[self._n_items % len(items)], self._n_items < len(items))

    def _bind(self, item: Item, with_random: bool) -> bool:
        """Give the next iteration what it ran on; the second time round its random numbers are new ones."""
        NamesSnapshot.bind(self.target.frame, item.names)
        if with_random:
            item.restore_random()
        self._n_redrawn = 0
        return True

    def is_attempt_over(self) -> bool:
        attempt = self._attempt
        if attempt is None or attempt.window is None:
            return False
        if attempt.goal is not None and self.n_steps_made() >= attempt.goal:
            return True
        return not attempt.ordered and self._is_late()

    def _is_late(self) -> bool:
        until = self._attempt.until if self._attempt is not None else None
        return until is not None and time.monotonic() > until

    @property
    def is_ordered(self) -> bool:
        """Whether all ranks make the attempt under way because one has said so."""
        return self._attempt is not None and self._attempt.ordered

    def agree(self, is_over: bool = False) -> bool:
        """Tell the other ranks how an ordered attempt stands here; return whether it is over for all of them."""
        is_bad, self._is_left = self.host.ranks.compare(self.outcome.event is not None, is_over or self._is_late())
        if is_bad and self.outcome.event is None:
            self._set_event(self.host.ranks.event())
        return self._is_left

    def n_steps_made(self) -> int:
        """Return how many optimizer steps (without an optimizer: backward passes) the last attempt has made."""
        watch = self.host.watch
        if not self.host.known.optimizers:
            return max(watch.n_events - self._n_events, 0)
        return max(watch.n_steps - self._n_steps, 0)

    def losses_before(self) -> list[float]:
        return list(self.host.watch.history.loss.values()[: self._losses])

    def losses_made(self) -> list[float]:
        return list(self.host.watch.history.loss.values()[self._losses :])

    def _new_tracer(self) -> Tracer:
        tracer = Tracer(lambda: self.host.watch.in_optimizer, updates_by_hand=self.pending.when == BY_HAND)
        roots = self.host.known.roots()
        tracer.modules.name_from(roots)
        tracer.taint(self.host.known.parameters())
        return tracer

    def leave_attempt(self) -> None:
        """Undo what an attempt has set up; harmless where none is under way."""
        if self._tracer is not None:
            try:
                self._tracer.__exit__(None, None, None)
            except Exception as error:
                tell("ending a trace failed", error)
            self._tracer.modules.leave()
            self.outcome.tracer = self._tracer
            self._tracer = None
        if self._attempt is not None and self._attempt.mode is not None:
            try:
                self._attempt.mode.__exit__(None, None, None)
            except Exception as error:  # what is left of the attempt is undone all the same
                tell("ending an attempt failed", error)
        if self._patience is not None:
            self._patience.over()
            self._patience = None
        if self._listening is not None:
            self._listening.undo()
            self._listening = None
        if self._alone is not None:
            self._alone.__exit__(None, None, None)
            self._alone = None
        self.host.watch.thorough = False
        self.quiet.leave()
        self.host.watch.in_optimizer = False
        self._attempt = None

    def abort(self) -> None:
        """Ctrl-C during a replay: nothing more is tried, what is known is kept."""
        self.leave_attempt()
        self.progress.close()
        self.host.record(self.known or explain.without_replay(self, "it was interrupted"))
        self.host.is_over = True

    def failed_decision(self, error: Exception) -> Decision:
        return self.without_replay(f"whynan failed: {type(error).__name__}: {error}")

    def without_replay(self, why: str) -> Decision:
        self.progress.close()
        incident = self.known or explain.without_replay(self, why)
        if self._target is None:
            return Decision("stop", incident)
        return self._finish(self.decide(incident))

    # Events during an attempt -----------------------------------------------------------------------------------------

    def takes(self, event: Event) -> bool:
        """Take an event of the attempt under way; return whether the attempt is over with it."""
        if self._attempt is None:
            return False
        if self.is_together:
            if self.outcome.event is None and event.when != "read":
                self._set_event(event)
            return False
        if event.when == "read" and self.pending.when not in ("read", "exit", "exception"):
            return False
        if event.when == "read" and self.pending.line is not None and event.line != self.pending.line:
            return False
        self._set_event(event)
        return True

    @property
    def is_together(self) -> bool:
        return self._attempt is not None and self._attempt.together

    def _set_event(self, event: Event | None) -> None:
        self.outcome.event = event
        self.outcome.is_finite = event is None
        if event is not None and self._tracer is not None:
            tracer = self._tracer
            tracer.pause()
            self.outcome.slice = explain.slice_of(tracer, event, self.host.known)
            self.outcome.frames = explain.live_namespaces(self.target.frame)
            self.outcome.terms = explain.terms_of(tracer, event, self.outcome)

    def ended_by(self, event: Event | None, error: BaseException | None = None) -> None:
        """The body of the attempt was left by a statement or an exception of the script's."""
        self.outcome.error = error
        if event is None and error is not None and self.pending.error is not None:
            same = type(error) is type(self.pending.error) and str(error)[:80] == str(self.pending.error)[:80]
            self.outcome.is_finite = not same
            return
        self._set_event(event)

    def ended_with_buffers(self, event: Event | None) -> None:
        """The body of the attempt came to its end; running statistics are looked at then."""
        if self._attempt is not None and self.outcome.event is None and event is not None:
            self._set_event(event)

    @property
    def is_experiment(self) -> bool:
        return self._attempt is not None and self._attempt.is_experiment

    @property
    def looks_at_buffers(self) -> bool:
        return self.pending.what == "buffer" or self.is_experiment

    def ended_quietly(self, event: Event | None) -> None:
        """The body of the attempt came to its end, as it did when the script had skipped the step."""
        if self._attempt is not None and self.outcome.event is None and event is not None:
            self._set_event(event)

    def is_past_symptom(self) -> bool:
        """Whether the attempt has made as many backward passes and steps as the failing run had at its symptom."""
        if self._attempt is not None and self._attempt.is_experiment:
            return self.is_attempt_over()
        if self.pending.stage == "validation":
            return False  # the epoch's training comes first
        return self.host.watch.n_events - self._n_events >= max(1, self.pending.n_events)

    def redrawn(self) -> Any:
        items = self._attempt.redraws if self._attempt and self._attempt.redraws is not None else self.target.drawn
        if self._attempt is not None and self._attempt.window is not None:
            kept = self._attempt.window.items
            items = kept[self._n_items % len(kept)].drawn
        item = items[self._n_redrawn % max(len(items), 1)]
        self._n_redrawn += 1
        return item

    def causes(self) -> tuple[CauseFound, ...]:
        return self.known.causes if self.known is not None else ()

    def is_to_be_proved(self, incident: Incident) -> bool:
        """Whether remedies are to be tried: not for what has been diagnosed before in this run."""
        if not self.host.options.prove or self.evidence is None or self.is_out_of_time():
            return False
        source = incident.origin.source if incident.origin is not None else None
        return source is None or (source.file, source.line) not in self.host.recovery.known_lines

    def decide(self, incident: Incident) -> Decision:
        policy = self.host.options.policy
        if self.pending.is_early:
            return Decision("early", incident)
        if self.pending.was_skipped:
            return Decision("continue", incident)
        if policy == "observe" or (policy == "recover" and self.pending.is_alone):
            return Decision("run-for-real" if self.pending.leaves else "continue", incident)
        if policy == "recover" and self.pending.stage == "train" and self._target is not None:
            return Decision("recover", incident)
        if policy == "recover":
            return Decision(
                "run-for-real" if self.pending.leaves and self._target is not None else "continue", incident
            )
        return Decision("stop", incident)

    def is_out_of_time(self) -> bool:
        return time.monotonic() > self.deadline

    def replay_result(self, traced: Outcome) -> ReplayResult:
        snapshot = self.target.snapshot
        missing = []
        if snapshot is not None and not snapshot.names.complete:
            missing.append("local variables (the function asks for its locals)")
        if snapshot is not None and snapshot.changed_in_place():
            missing.append("tensors that the loop's body changes in place")
        if traced.is_finite and traced.error is not None and self.pending.error is None:
            # Not a finding about the machine: the step did not come as far as its symptom.
            why = f"run again, the step raised {type(traced.error).__name__}: {str(traced.error)[:200]}"
            return ReplayResult(False, "none", why, tuple(missing))
        if traced.is_finite:
            times = "once" if self.n_attempts == 1 else f"{self.n_attempts} times"
            why = f"the same step, run again {times} on {socket.gethostname()}, came out finite"
            return ReplayResult(False, self.method, why, tuple(missing))
        return ReplayResult(True, self.method, None, tuple(missing))

    @property
    def method(self) -> Method:
        """How the step is run again: by the user's own loop, or by calling a trainer's step function."""
        return "closure" if self.target.site.filename.startswith(STEP_PREFIX) else "re-yield"
