"""A witness: values within the data's ranges, and parameters near where they are, for which a suspect really fails."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from whynan.check.hazards import Hazard


@dataclass(frozen=True)
class Witness:
    """How a search has ended. `changes` tells for each leaf what was done to it."""

    outcome: Literal["found", "remote", "not found", "not searched"]
    """`remote`: it fails, but on a batch that is wholly unlike every sample that was seen."""
    how: str = ""
    tries: int = 0
    changes: tuple[str, ...] = ()
    effect: str = ""
    """What became non-finite: the loss, a gradient, or the operation's own value."""
    leaves: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The values themselves, by the leaf's number, as arrays; for replaying."""
    about: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """For each of them how to find the leaf in another run."""
    graph: int = 0
    """Which of the recorded steps."""
    seed: int = 0

    @property
    def found(self) -> bool:
        return self.outcome == "found"

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "how": self.how,
            "tries": self.tries,
            "changes": list(self.changes),
            "effect": self.effect,
        }


class Search(Protocol):
    """What an adapter offers: looks for a witness of a hazard within `seconds`."""

    def find(self, hazard: Hazard, seconds: float) -> Witness: ...
