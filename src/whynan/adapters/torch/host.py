"""Answers the rewritten loops: decides that a symptom is one, and drives the replay of the iteration it lies in."""

import linecache
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from whynan.adapters.torch import looks
from whynan.adapters.torch.attempt import Pending, Quiet
from whynan.adapters.torch.capsule import CapsuleReplay
from whynan.adapters.torch.driving import InlineTrace, explain_without_replay, go_on
from whynan.adapters.torch.experiments.run import Experiments
from whynan.adapters.torch.frames import live_user_frame
from whynan.adapters.torch.lookback import with_trail
from whynan.adapters.torch.looks import Looks
from whynan.adapters.torch.pictures import FirstProposals
from whynan.adapters.torch.plan import Plan
from whynan.adapters.torch.questions import Belated
from whynan.adapters.torch.ranks.verdict import Ranks
from whynan.adapters.torch.recovery import Recovery
from whynan.adapters.torch.run_facts import value_of_epoch
from whynan.adapters.torch.sites import Event, Leaving, Loops, Pass, Site
from whynan.adapters.torch.snapshot import MEMORY_BUDGET, KnownState, OptimizerCopy
from whynan.adapters.torch.trail import BY_HAND
from whynan.adapters.torch.watch import Watch
from whynan.launch import RunOptions
from whynan.launch.host import Unwind, strip_frames, tell
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident
from whynan.watching import Budget


class TorchHost:
    """The adapter's host. `record` takes finished incidents."""

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.options = options
        self._record = record
        self.known = KnownState()
        self.first_proposals = FirstProposals(options.boxes_of)
        self.known.on_module = self.first_proposals.meet
        self.watch = Watch(self.known, self.notify)
        self.ranks = Ranks(self)
        self.watch.ranks = self.ranks
        self.preliminary: Callable[[Incident], None] = lambda incident: None
        """Keeps what is known of an incident that other ranks are still explaining."""
        self.watch.before_step = self.before_step
        self.watch.after_step = self.after_step
        self.watch.tick = self.tick
        self.watch.on_growth = self.grows
        self.watch.on_remark = lambda text: self.recovery.log_line(text)
        self.left_to_do: Experiments | None = None
        self.loops = Loops(
            self.known,
            lambda: self.watch.n_events,
            lambda: self.watch.n_steps,
            self.run_again,
            lambda: self.plan is not None,
        )
        self.pending: Pending | None = None
        self.plan: Plan | None = None
        self.looks = Looks(self)
        self.is_over = False
        self.unheard: tuple[Quiet, Pass] | None = None
        self.inline: InlineTrace | None = None
        self.recovery = Recovery(self.watch, options.limits)
        self.n_capsules = 0
        self.capsule: CapsuleReplay | None = None
        self.n_undone = 0
        """How many training steps a recovery has undone."""
        self.steps_under_way = 0
        self.words = "torch"
        """The framework in whose words changes are written: Keras' inside of its `fit`."""
        self.stopped: Callable[[], BaseException] | None = None
        """What a stopped run raises in a program that runs by itself; None: whynan's own way out."""
        if options.replay is not None:
            self.capsule = CapsuleReplay(self, options.replay)
            self.loops.begins = self.capsule.begins
        self._copies = Budget(0.004, n_first=3, free_s=5e-5)
        self.belated = Belated(self)

    @property
    def is_replaying(self) -> bool:
        return self.plan is not None

    def record(self, incident: Incident) -> None:
        """Hand an incident on, with what watching has seen of the steps before where none was run once more."""
        try:
            incident = with_trail(self, incident)
        except Exception as error:
            tell("looking back failed", error)
        self._record(incident)

    # What rewritten code calls ----------------------------------------------------------------------------------------

    def new_site(self, site: LoopSite) -> Site:
        return self.loops.new_site(site)

    def failed(self, index: int) -> bool:
        error = sys.exc_info()[1]
        frame = _caller()
        if error is None or frame is None:
            return False
        current = self.loops.of(index, frame)
        if self.unheard is not None and not isinstance(error, Unwind):
            self._be_heard([current] if current is not None else [])
        if isinstance(error, Unwind):
            return isinstance(error, Leaving) and error.target is not None and error.target is current
        if current is None or self.is_over or isinstance(error, GeneratorExit):
            return False
        if self.plan is not None:
            return self._failed_in_replay(current, error)
        strip_frames(error)
        if self.pending is not None:
            if (
                self.pending.target is current
                and self.ranks.is_among_others
                and not isinstance(error, KeyboardInterrupt)
            ):
                self.pending.leaves = True
                self._settle(self.pending)
            return self.pending.target is current
        if isinstance(error, KeyboardInterrupt):
            return False
        return self.looks.is_symptom_in(error, current)

    def leave(self, value: Any = None) -> Any:
        if self.unheard is not None:
            frame = _caller()
            self._be_heard(self._left_by(frame) if frame is not None else [])
        if self.is_over:
            return value
        frame = _caller()
        if frame is None:
            return value
        leaving = self._left_by(frame)
        if self.plan is not None:
            if any(current is self.plan.target for current in leaving):
                self.plan.ended_by(self.looks.suspect(self.plan.target, frame))
                raise Leaving(self.plan.target)
            return value
        if self.pending is None:
            for current in leaving:
                if self.ranks.is_joint and current.trained:
                    break  # all ranks have come to their verdict
                event = self.looks.suspect(current, frame)
                if event is not None:
                    self.set_pending(event, current)
                    break
        if self.pending is not None and any(current is self.pending.target for current in leaving):
            self.pending.leaves = True
            self._settle(self.pending)
            raise Leaving(self.pending.target)
        return value

    def exiting(self) -> None:
        """The program is about to end without unwinding: each iteration on the stack is left at once."""
        if self.unheard is not None:
            self._be_heard([self.unheard[1]])
        frame = None if self.is_over else _caller()
        leaving = self.loops.on_stack(frame) if frame is not None else []
        if not leaving or frame is None:
            return
        if self.plan is not None:
            if self.plan.target in leaving:
                self.plan.ended_by(self.looks.suspect(self.plan.target, frame))
                raise Leaving(self.plan.target)
            return
        for current in leaving:
            event = (
                self.looks.suspect(current, frame) if self.pending is None and current.snapshot is not None else None
            )
            if event is not None:
                self.set_pending(event, current)
        if self.pending is not None and self.pending.target in leaving:
            self.pending.leaves = True
            self._settle(self.pending)
            raise Leaving(self.pending.target)

    def drawn(self, value: Any) -> Any:
        for current in self.loops.alive():
            if current.snapshot is not None:
                current.drawn.append(value)
        return value

    def asked(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point() and not self.is_over:
            frame = _caller()
            if frame is not None:
                self.watch.look_at_tensor(value, frame)
        return value

    def redrawn(self) -> Any:
        if self.plan is None and self.unheard is not None:
            current = self.unheard[1]
            current.n_redrawn += 1
            return current.drawn[current.n_redrawn - 1]
        if self.plan is None:
            raise LookupError("nothing is being replayed")
        return self.plan.redrawn()

    # Events -----------------------------------------------------------------------------------------------------------

    def notify(self, event: Event) -> None:
        if self.is_over:
            return
        frame = live_user_frame(sys._getframe(1))
        if event.line is None and frame is not None:
            event.line = (frame.f_code.co_filename, frame.f_lineno)
        if self.plan is not None:
            if self.plan.takes(event):
                raise Leaving(self.plan.target)
            return
        if self.pending is not None:
            return
        targets = self.loops.on_stack(frame)
        if event.when == "read":
            if targets and event.line not in self.looks.innocent_lines:
                self.looks.read = (event, targets[0])
            return
        target = self.belated.target_of(event, targets)
        if self.looks.leaves_to_script(event, target) or self.looks.is_proposal(event, targets):
            return
        self.set_pending(event, target)
        assert self.pending is not None
        if self.ranks.defers(event):
            return
        if self.pending.target is None or self.known.is_sharded:
            explain_without_replay(self, self.pending, bool(targets))
        elif self.options.policy != "observe":
            raise Leaving(self.pending.target)

    def leave_together(self, event: Event) -> None:
        """A rank's loss was bad in this step: leave it here, as all ranks do."""
        targets = self.loops.on_stack(live_user_frame(sys._getframe(1)))
        target = next((t for t in targets if t.snapshot is not None), None)
        if self.pending is None:
            self.set_pending(event, target)
        pending = self.pending
        assert pending is not None
        if self.ranks.early is not None or (pending.target is not None and pending.target not in targets):
            pending.missed, pending.target = True, target
        if pending.target is None:
            explain_without_replay(self, pending, bool(targets))
        elif self.options.policy != "observe":
            raise Leaving(pending.target)

    def leave_alone(self) -> None:
        """This rank's loss was bad, and no other rank had to be waited for: leave the step before its update."""
        pending = self.pending
        if pending is None or pending.what != "loss" or pending.target is None or self.options.policy == "observe":
            return
        if self.known.is_sharded:
            explain_without_replay(self, pending, True)
        if pending.target in self.loops.on_stack(live_user_frame(sys._getframe(1))):
            raise Leaving(pending.target)

    def end(self) -> None:
        """End the run for what another rank has found."""
        self.is_over = True
        self.watch.enabled = False
        raise Leaving(None)

    def _settle(self, pending: Pending) -> None:
        """The script leaves the iteration by itself: the others are asked where they are about to hear of it."""
        if self.ranks.is_joint and not self.ranks.agreed:
            pending.is_alone = not (self.ranks.has_sent and self.ranks.is_agreed())

    def before_step(self, optimizer: Any) -> None:
        """Copy an optimizer's parameters and state for the iterations that have not, where it can be afforded."""
        if self.plan is not None and self.plan.is_together and (not self.plan.is_ordered or self.plan.agree()):
            raise Leaving(self.plan.target)  # on all ranks here
        if self.known.is_sharded:
            return  # nothing of it is looked at after the update
        alive = self.loops.alive()
        self.belated.forget_past()
        self._copy(optimizer, alive)
        self.belated.before_update(optimizer, alive)

    def _copy(self, optimizer: Any, alive: list[Pass]) -> None:
        lacking = [c for c in alive[:2] if c.snapshot is not None and id(optimizer) not in c.snapshot.optimizers]
        if self.plan is not None:
            snapshot = self.plan.target.snapshot
            if snapshot is not None and id(optimizer) not in snapshot.optimizers:
                snapshot.save_before_step(optimizer, OptimizerCopy(optimizer))
            return
        if not lacking:
            return
        if lacking[0].snapshot is not None and lacking[0].n_steps == self.watch.n_steps:
            self.known.moved_by_hand.look(lacking[0].snapshot)
        # An update that is going to be undone, since something is non-finite before it, is worth any time.
        if self.pending is None and not self._copies.is_due():
            return
        with self.watch.late.charged(self._copies, optimizer.param_groups[0]["params"][0]):
            if OptimizerCopy.n_bytes(optimizer) <= MEMORY_BUDGET:
                copy = OptimizerCopy(optimizer)
                for current in lacking:
                    if current.snapshot is not None:
                        current.snapshot.save_before_step(optimizer, copy)

    def after_step(self) -> None:
        """End an attempt that has come past the symptom without meeting it."""
        if self.inline is not None and not self.is_over:
            self.inline.begin_if_due(self.watch.n_steps + 1)
        if not self.first_proposals.is_over:
            self.first_proposals.end_step(self.watch.n_steps)
        if self.plan is None:
            return
        if (self.plan.pending.what != "buffer" or self.plan.is_attempt_over()) and self.plan.is_past_symptom():
            raise Leaving(self.plan.target)

    def grows(self, early: float, now: float) -> None:
        """Say that a run diverges when it does; it becomes an incident where nothing overflows later."""
        text = f"step {self.watch.growth.since}: the loss has grown from {early:.3g} to {now:.3g} and stays there"
        self.recovery.log_line(f"{text}: the run is diverging")

    def tick(self) -> None:
        """End an attempt of several steps that has used its time or made its steps."""
        if self.plan is not None and self.plan.is_attempt_over():
            raise Leaving(self.plan.target)

    # Deciding ---------------------------------------------------------------------------------------------------------

    def set_pending(self, event: Event, target: Pass | None) -> None:
        if target is not None and target.snapshot is None:
            # None was affordable when it began. A loop that only evaluates changes little: its end will do.
            self.loops.take_snapshot(target)
        event = self.belated.earlier(event, target)
        self.pending = Pending.of(event, target, self.watch, value_of_epoch(target.frame if target else None))
        if self.inline is not None and self.inline.is_it(event):
            self._explain_inline(self.inline, event, self.pending)

    def _explain_inline(self, inline: InlineTrace, event: Event, pending: Pending) -> None:
        """This is the second run of the script, and it has come to what it was started for."""
        self.is_over = True
        self.watch.enabled = False
        try:
            frame = pending.target.frame if pending.target is not None else _caller()
            self.record(inline.explain(event, pending, frame))
        except Exception as error:
            tell("explaining the traced step failed", error)
        raise Leaving(None)

    def _left_by(self, frame: FrameType) -> list[Pass]:
        """Return the iterations that the statement now running in `frame` leaves, innermost first."""
        here = [c for c in self.loops.alive() if c.frame is frame]
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if re.search(r"\bbreak\b", line) and not re.search(r"\breturn\b", line):
            return here[:1]
        return here

    def _failed_in_replay(self, current: Pass, error: BaseException) -> bool:
        assert self.plan is not None
        if current is not self.plan.target:
            return False
        if isinstance(error, KeyboardInterrupt):
            self.plan.abort()
            self.plan = None
            return False
        error = looks.spoken(error)
        try:
            event = looks.nonfinite_in_exception(error, current.frame)
        except Exception as failure:  # the script's streams are still muted: the plan has to come to its end
            tell("looking at an exception of the script failed", failure)
            event = None
        self.plan.ended_by(event, error)
        return True

    def _be_heard(self, left: list[Pass]) -> None:
        """End the silence of an iteration that ran once more only to leave its loop as it had wanted to."""
        if self.unheard is not None and any(self.unheard[1] is current for current in left):
            self.unheard[0].leave()
            self.unheard = None

    def run_again(self, current: Pass) -> bool:
        """Called when the body of an iteration has ended: whether it is to run once more."""
        self._be_heard([current])
        if self.is_over:
            return False
        if self.plan is not None:
            if self.plan.target is not current:
                return False
            if self.plan.pending.when == BY_HAND or (self.plan.is_experiment and not self.known.optimizers):
                self.plan.ended_with_buffers(self.watch.poisoned_parameter())
            if self.plan.looks_at_buffers:
                self.plan.ended_with_buffers(self.watch.poisoned_buffer())
            elif self.plan.pending.when == "exit" and current in self.loops.on_stack(current.frame):
                self.plan.ended_quietly(self.looks.suspect(current, current.frame))
            return go_on(self, current)
        if self.known.is_sharded and self.ranks.is_among_others:
            if self.pending is None or not (self.ranks.agreed or self.pending.leaves):
                self.note_end(current)  # where no update came, none is asked for either
                return False
        elif self.ranks.is_joint and current.trained:
            self._read_flags(current)
        elif self.pending is None:
            self.belated.at_end(current)
            if self.pending is None:
                self.looks.at_end(current)
            if self.pending is not None:
                self.pending.is_alone = self.ranks.is_joint
        if self.capsule is not None and self.capsule.ended(current):
            return True
        if self.pending is not None and self.pending.target is current:
            self.belated.go_back(current)
            if self._is_skipped_at_once(current, self.pending):
                return self.belated.goes_on(current, is_undone=True)
            self.plan = Plan(self, current, self.pending, self.left_to_do)
            self.left_to_do = None
            return go_on(self, current)
        self.note_end(current)
        return False

    def _read_flags(self, current: Pass) -> None:
        """Gradients were sent in this iteration and no update has come; or a micro-batch was bad on this rank."""
        if self.ranks.has_sent and self.ranks.is_agreed() and self.pending is None:
            self.set_pending(self.ranks.event(), current)
        pending = self.pending
        if pending is not None and pending.target is current and not self.ranks.agreed:
            pending.is_early = not pending.is_alone

    def _is_skipped_at_once(self, current: Pass, pending: Pending) -> bool:
        """Under `recover`, what has been explained often enough is undone and skipped without another replay."""
        if self.options.policy != "recover" or pending.stage != "train" or current.snapshot is None:
            return False
        if self.ranks.is_joint:
            return False
        if pending.what == "parameter" or not self.recovery.is_familiar(pending):
            return False
        current.snapshot.restore(current.frame)
        self.n_undone += 1
        self.pending, self.looks.read = None, None
        self.note_end(current)
        return True

    def note_end(self, current: Pass) -> None:
        trained = current.trained
        if self.watch.late.n_waiting and trained:
            current.owner.past = current.past()
        if trained:
            current.owner.last_trained = current.serial
        current.owner.note_end(current.elapsed, trained)
        if current.snapshot is not None:
            owner = current.owner
            owner.accumulates = owner.accumulates or (trained and self.watch.n_steps == current.n_steps)
            owner.in_place = owner.in_place or (owner.n_passes <= 3 and bool(current.snapshot.tensors_changed()))
        if self.looks.read is not None and self.looks.read[1] is current:
            self.looks.read = None
        if trained and self.watch.n_steps > current.n_steps and self.looks.provisional is not None:
            self.looks.skipped.append(self.looks.provisional)
            self.looks.provisional = None
            self.looks.n_skipped_in_a_row = 0

    def outer_of(self, current: Pass) -> Pass | None:
        alive = self.loops.on_stack(current.frame)
        around = alive[alive.index(current) + 1 :] if current in alive else []
        return next((c for c in around if c.snapshot is not None), None)


def _caller() -> FrameType | None:
    return live_user_frame(sys._getframe(1))


def device_of(known: KnownState) -> str:
    parameter = next(iter(known.parameters()), None)
    return str(parameter.device) if parameter is not None else "cpu"
