"""What the script itself notices of a non-finite loss, and what it does about it: reads it, leaves, raises, skips."""

from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import torch

from whynan.adapters.torch import suspects
from whynan.adapters.torch.event import Event, Leaving
from whynan.adapters.torch.sites import Pass
from whynan.records import Incident

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost

_WORTH_A_LOOK_S = 2e-4
"""Iterations shorter than this run no model's forward pass."""


class Looks:
    """Keeps what was read in this iteration, what turned out innocent, and the steps that the script skipped."""

    def __init__(self, host: "TorchHost") -> None:
        self.host = host
        self.read: tuple[Event, Pass] | None = None
        self.innocent_lines: set[tuple[str, int | None]] = set()
        self.provisional: Incident | None = None
        self.skipped: list[Incident] = []
        self.n_skipped_in_a_row = 0

    def suspect(self, current: Pass, frame: FrameType) -> Event | None:
        """Look for a non-finite loss that the script has seen before we have; None where there is none."""
        if self.host.plan is None and self.read is not None and self.read[1] is current and not current.trained:
            return self.read[0]
        if current not in self.host.loops.on_stack(frame):
            return None
        return suspects.loss_in_frame(current.frame, current.site, current.trained)

    def is_symptom_in(self, error: BaseException, current: Pass) -> bool:
        """Whether an exception of the script's comes from non-finite values; if so, replay the right iteration."""
        targets = [c for c in self.host.loops.on_stack(current.frame) if c.snapshot is not None]
        target = suspects.training_iteration(targets)
        if target is None:
            return False
        error = suspects.spoken(error)
        event = None
        if self.read is not None and self.read[1] is target:
            event = self.read[0]
        event = event or suspects.nonfinite_in_exception(error, target.frame)
        if event is None:
            return False
        event.error = error
        self.host.set_pending(event, target)
        assert self.host.pending is not None
        self.host.pending.leaves = True
        self.host.pending.error = error
        if target is current:
            return True
        raise Leaving(target)

    def at_end(self, current: Pass) -> None:
        """The body ended by itself. A loss was read, or stands in a variable, and nothing was done with it?"""
        is_read = self.read is not None and self.read[1] is current
        if current.snapshot is None and not is_read:
            return
        if (
            current.snapshot is not None
            and self.host.known.buffers()
            and current.elapsed > _WORTH_A_LOOK_S
            and current in self.host.loops.on_stack(current.frame)
        ):
            poisoned = self.host.watch.poisoned_buffer(current.snapshot.buffers.pairs)
            if poisoned is not None:
                poisoned.line = (current.site.filename, current.site.header_line)
                self.host.set_pending(poisoned, current)
                return
        if current.trained:
            if current.snapshot is not None and not self.host.known.optimizers:
                self._look_at_parameters(current)
            if self.host.pending is None:
                self._look_at_validation(current)
            return
        event = None
        if self.read is not None and self.read[1] is current:
            event = self.read[0]
        elif current in self.host.loops.on_stack(current.frame):
            event = suspects.loss_in_frame(current.frame, current.site, False)
        if event is None or event.line in self.innocent_lines:
            return
        if current.owner.n_training == 0 and event.differentiable and self._is_part_of_a_step(current, event, is_read):
            return
        if current.owner.n_training == 0 or (not event.differentiable and self._only_evaluates()):
            event.stage = "validation"
        else:
            event.was_skipped = True
            self.n_skipped_in_a_row += 1
            if self.n_skipped_in_a_row == suspects.MANY_SKIPS:
                self._end_of_skipping()
            if self.n_skipped_in_a_row > 1:
                return
        self.host.set_pending(event, current)

    def _look_at_parameters(self, current: Pass) -> None:
        """No optimizer is known whose steps would be watched: have the script's own updates left numbers?"""
        event = self.host.watch.poisoned_parameter()
        if event is not None:
            event.line = (current.site.filename, current.site.header_line)
            self.host.set_pending(event, current)

    def _look_at_validation(self, current: Pass) -> None:
        """An epoch has ended in which a loop around batches trained: was the validation loss that it read a number?

        A validation loop looks after itself (`at_end`); where its split is empty there is no iteration of one.
        """
        event = self.read[0] if self.read is not None and self.read[1] is current else None
        if event is None or event.differentiable or event.line in self.innocent_lines or current.snapshot is None:
            return
        is_epoch = any(site.last_trained > current.serial for site in self.host.loops.sites.values())
        if not is_epoch or self.provisional is not None or self.skipped:
            return
        if suspects.is_validation_loss(event.name):
            event.stage, event.is_loss = "validation", True
            self.host.set_pending(event, current)

    def _only_evaluates(self) -> bool:
        """Whether a loop that trains at other times evaluates now: without gradients, or all models in eval mode."""
        known = self.host.known
        trained = [m for m in known.roots().values() if any(p.requires_grad for p in m.parameters())]
        return not torch.is_grad_enabled() or (bool(trained) and not any(m.training for m in trained))

    def _is_part_of_a_step(self, current: Pass, event: Event, is_read: bool) -> bool:
        """Whether a loop that trains nothing runs inside a training step: its losses are that step's to look at."""
        if not is_read:
            return True
        around = [c for c in self.host.loops.on_stack(current.frame) if c is not current and not c.trained]
        step = suspects.training_iteration([c for c in around if c.owner.n_training]) or suspects.by_text(around)
        if step is not None:
            self.read = (event, step)
        return step is not None

    def _end_of_skipping(self) -> None:
        """The script has skipped so many steps in a row that nothing is trained any more: the first is an incident."""
        incident, self.provisional = self.provisional, None
        if incident is None:
            return
        action = f"the script skipped this step and the next {suspects.MANY_SKIPS - 1}"
        stops = self.host.options.policy == "stop"
        self.host.record(replace(incident, action=f"stopped: {action}" if stops else f"{action}; it goes on"))
        if stops:
            self.host.is_over = True
            self.host.watch.enabled = False
            raise Leaving(None)
