"""Which intervention comes next: the mildest first, stronger ones where incidents keep coming, an end at the limit."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["skip-batch", "drop-sample", "clip-gradients", "lower-learning-rate", "roll-back", "stop"]
ORDER: tuple[Action, ...] = ("drop-sample", "skip-batch", "roll-back", "clip-gradients", "lower-learning-rate")

_OF_TRAINING = {
    "learning-rate-too-high", "exploding-gradient", "bad-initialization", "excessive-regularization",
    "missing-grad-scaling", "optimizer-epsilon",
}  # fmt: skip
"""Causes that lie in the steps before: another batch would fail as well."""


@dataclass(frozen=True)
class Limits:
    """How far recovery goes. `order` holds the interventions that may be made, mildest first.

    Where the step itself is to blame (its data, its mathematics) it is skipped, as long as fewer than `skipped_share`
    of the last `window` iterations were. Where the steps before it are to blame (a learning rate, an initialization)
    the run goes back first; each of these interventions is made `patience` times among the last `window` iterations
    before the next one. When the order is used up, or after `most` interventions in all, the run is stopped; a step
    that is to blame itself is skipped for as long as the latter allows.
    """

    order: tuple[Action, ...] = ORDER
    patience: int = 3
    window: int = 50
    most: int = 500
    skipped_share: float = 0.9
    learning_rate_factor: float = 0.2
    clip_norm: float = 1.0


@dataclass
class Ladder:
    """The interventions of one run so far."""

    limits: Limits = field(default_factory=Limits)
    made: list[tuple[int, Action]] = field(default_factory=list)

    def next(self, step: int, cause: str | None, has_sample: bool) -> Action:
        """Return what to do about an incident, and count it as made. `step` counts iterations: those skipped too."""
        action = self._choose(step, cause, has_sample)
        self.made.append((step, action))
        return action

    def _choose(self, step: int, cause: str | None, has_sample: bool) -> Action:
        if len(self.made) >= self.limits.most:
            return "stop"
        possible = [a for a in self.limits.order if a != "drop-sample" or has_sample]
        if cause in _OF_TRAINING:
            possible = [a for a in possible if a not in ("drop-sample", "skip-batch")]
        elif has_sample and "drop-sample" in possible:
            return "drop-sample"  # it can't come back: however many bad samples there are, each is dropped once
        recent = Counter(action for at, action in self.made if step - at <= self.limits.window)
        n_skipped = recent["skip-batch"]
        if "skip-batch" in possible and n_skipped < max(
            self.limits.patience, self.limits.skipped_share * self._n(step)
        ):
            return "skip-batch"
        may_skip = "skip-batch" in possible
        possible = [action for action in possible if action not in ("drop-sample", "skip-batch")]
        # A step that is to blame itself can always be skipped; the run is not ended for it before the limit.
        last: Action = "skip-batch" if may_skip else "stop"
        return next((action for action in possible if recent[action] < self.limits.patience), last)

    def _n(self, step: int) -> int:
        """Return how many steps the window holds so far."""
        return min(self.limits.window, step + 1)

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(action for _, action in self.made))
