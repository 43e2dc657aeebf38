"""Carry out interventions on a PyTorch run: skip, drop, clip, a smaller learning rate, back to an earlier state."""

import sys
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch import sources
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.storages import values_of
from whynan.records import Incident
from whynan.recovery import Action, Ladder, Limits
from whynan.report import write_safely

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan
    from whynan.adapters.torch.watch import Watch

_WORDS = {
    "skip-batch": "the batch was skipped",
    "drop-sample": "the batch was skipped, and sample {sample} is left out for the rest of the run",
    "clip-gradients": "the batch was skipped, and from here on the gradient norm is clipped at {norm:g}",
    "lower-learning-rate": "the batch was skipped, and the learning rate is {factor:g} of the script's from here on",
    "roll-back": "parameters and optimizer went back to step {step}; the learning rate is {factor:g} of what it was",
    "stop": "the limits of recovery are reached: stopped",
}


def _iteration(plan: "Plan") -> int:
    return plan.target.owner.n_passes if plan._target is not None else plan.pending.step


_DIAGNOSED = 4
"""Incidents of one kind that are explained; later ones are only handled."""


class Recovery:
    """The interventions of one run, and what of them lasts."""

    def __init__(self, watch: "Watch", limits: Limits | None = None) -> None:
        self.watch = watch
        self.ladder = Ladder(limits or Limits())
        self.factor = 1.0
        self.clip_norm: float | None = None
        self.known_lines: set[tuple[str | None, int | None]] = set()
        self.n_seen: dict[Any, int] = {}
        self.n_quiet = 0
        self.n_rolled_back = 0
        self._saved: list[tuple[dict[str, Any], Any]] = []

    def intervene(self, plan: "Plan", incident: Incident) -> tuple[Action, str]:
        """Do what is next; return it, and what was done in words. The step itself has been undone by then."""
        cause = incident.causes[0].slug if incident.causes else None
        sample = next((s.index for s in incident.samples if s.index is not None), None)
        origin = sources.batch_origin(plan) if plan._target is not None else None
        is_joint = plan.host.ranks.is_joint
        # Ranks decide by what all of them know: not by one's sample, nor by the copies that each has kept.
        has_sample = sample is not None and origin is not None and not is_joint
        action = self.ladder.next(_iteration(plan), cause, has_sample)
        step = None
        if action != "stop" and not self._is_healthy():
            # The step's own update could not be undone: the state is that of the latest full copy.
            action = "roll-back"
        if action == "roll-back":
            step = self._roll_back(plan)
            if step is None and is_joint:
                action = "stop"  # no copy that all ranks have
        self.is_silent = plan.host.ranks.is_silent
        if action == "drop-sample" and origin is not None:
            loader.leave_out(origin, incident.samples)
        elif action == "clip-gradients":
            self.clip_norm = self.ladder.limits.clip_norm
        elif action == "lower-learning-rate" or action == "roll-back":
            self.factor *= self.ladder.limits.learning_rate_factor
        if self.factor != 1.0 or self.clip_norm is not None:
            self.watch.around_step = self
        words = _WORDS[action].format(sample=sample, norm=self.clip_norm or 0.0, factor=self.factor, step=step)
        return action, words

    def is_familiar(self, pending: Any) -> bool:
        """Whether the same has been diagnosed so often that the batch is only skipped; counts it as seen."""
        key = (pending.what, pending.name, pending.line, pending.when)
        self.n_seen[key] = self.n_seen.get(key, 0) + 1
        if (
            self.n_seen[key] <= _DIAGNOSED
            or self.ladder.next(pending.target.owner.n_passes, None, False) != "skip-batch"
        ):
            return False
        self.n_quiet += 1
        self.log(pending.step, f"{pending.what} is {pending.kind} as before", "the batch was skipped")
        return True

    def _is_healthy(self) -> bool:
        return all(bool(torch.isfinite(values_of(p.detach())).all()) for p in self.watch.known.parameters())

    def log(self, step: int, why: str, done: str) -> None:
        """Say on standard error what was done, when it is done."""
        self.log_line(f"step {step}: {why}; {done}")

    def log_line(self, text: str) -> None:
        if sys.__stderr__ is not None and not self.is_silent:
            write_safely(f"whynan: {text}\n", sys.__stderr__)

    def _roll_back(self, plan: "Plan") -> int | None:
        """Put parameters and optimizer back to a full copy, an earlier one each time; return its step."""
        windows = [w for w in plan.host.loops.windows.copies() if w.n_steps <= max(plan.pending.step - 3, 0)]
        is_calm = self._common(plan, {w.n_steps: self.watch.was_calm(w.n_steps) for w in windows})
        windows = [w for w in windows if w.n_steps in is_calm]
        if not windows:
            return None
        calm = [w for w in windows if is_calm[w.n_steps]] or windows[:1]
        window = calm[max(len(calm) - 1 - self.n_rolled_back, 0)]
        self.n_rolled_back += 1
        window.copy.restore()
        with torch.no_grad():
            window.start.buffers.restore()
        return window.n_steps

    @staticmethod
    def _common(plan: "Plan", is_calm: dict[int, bool]) -> dict[int, bool]:
        """Return the steps of which all ranks have a copy, and whether the loss was calm there on all of them."""
        ranks = plan.host.ranks
        if ranks.job is None:
            return is_calm
        found = ranks.job.exchange(f"incident/{ranks.n_incidents}/copies", is_calm, plan.host.options.budget)
        if any(of_rank is None for of_rank in found):
            return {}
        steps = set(is_calm).intersection(*found)
        return {step: all(of_rank[step] for of_rank in found) for step in steps}

    # Around every optimizer step from then on ---------------------------------------------------------------------

    is_silent = False
    """Another rank says it."""
    on_gradients = None
    on_returned = None
    n_applied = 0

    def enter_step(self, optimizer: Any) -> None:
        if self.clip_norm is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        for group in optimizer.param_groups:
            if "lr" in group:
                self._saved.append((group, group["lr"]))
                group["lr"] = group["lr"] * self.factor

    def leave_step(self, optimizer: Any) -> None:
        for group, rate in self._saved:
            group["lr"] = rate
        self._saved.clear()
