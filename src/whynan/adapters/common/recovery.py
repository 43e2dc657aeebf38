"""Carry out interventions where steps are functions: skip, roll back to a copy, smaller updates from then on.

The adapter says what a copy is and puts one back; a smaller learning rate is made by making each update a part of what
it would be, since the optimizer is not always to be seen. Gradients are not clipped: where the update happens inside a
compiled step they can't be reached.
"""

from typing import Generic, TypeVar

from whynan.records import Incident
from whynan.recovery.ladder import Action, Ladder, Limits

T = TypeVar("T")
ORDER: tuple[Action, ...] = ("skip-batch", "roll-back", "lower-learning-rate")
_EVERY = 10
_KEPT = 4
_BEFORE = 3
"""A copy from the last steps may be ill already."""
_WORDS = {
    "skip-batch": "the batch was skipped, the weights are those from before the step, the run goes on",
    "lower-learning-rate": "the batch was skipped, and updates are {factor:g} of the script's from here on",
    "roll-back": "weights and optimizer went back to step {step}; updates are {factor:g} of the script's from here on",
    "stop": "the limits of recovery are reached: stopped",
}


class Copies(Generic[T]):
    """Copies of the state: the first one, and the latest few, some steps apart."""

    def __init__(self, every: int = _EVERY, kept: int = _KEPT) -> None:
        self.every = every
        self.kept = kept
        self._held: list[tuple[int, T]] = []

    def is_due(self, step: int) -> bool:
        """Whether the state before this step is to be kept."""
        return not self._held or step >= self._held[-1][0] + self.every

    def add(self, step: int, copy: T) -> None:
        self._held.append((step, copy))
        if len(self._held) > self.kept:
            del self._held[1]

    def take(self, step: int, growing_since: int | None) -> tuple[int, T] | None:
        """Return the latest copy from before the trouble, the earliest where all are younger; later ones are dropped.

        The next call returns an earlier one, if there is any.
        """
        if not self._held:
            return None
        before = min(step - _BEFORE, growing_since if growing_since is not None else step)
        calm = [item for item in self._held if item[0] <= before] or self._held[:1]
        chosen = calm[-1]
        earlier = [item for item in self._held if item[0] < chosen[0]]
        self._held = earlier or [chosen]
        return chosen


class Recovery(Generic[T]):
    """The interventions of one run; `factor` is what part of its updates a script may make."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.ladder = Ladder(limits or Limits(order=ORDER))
        self.copies: Copies[T] = Copies()
        self.factor = 1.0

    def choose(
        self, step: int, incident: Incident, growing_since: int | None, can_slow: bool = True
    ) -> tuple[Action, str, T | None]:
        """Return what is done about an incident, in words too, and the copy to go back to where it is that.

        `can_slow` is False where neither state nor update is in sight: then the step is skipped.
        """
        cause = incident.causes[0].slug if incident.causes else None
        action = self.ladder.next(step, cause, False)
        at: int | None = None
        copy: T | None = None
        if action not in ("skip-batch", "stop") and not can_slow:
            action = "skip-batch"
        if action == "roll-back":
            found = self.copies.take(step, growing_since)
            if found is None:
                action = "lower-learning-rate"
            else:
                at, copy = found
        if action in ("roll-back", "lower-learning-rate"):
            self.factor *= self.ladder.limits.learning_rate_factor
        return action, _WORDS[action].format(factor=self.factor, step=at), copy
