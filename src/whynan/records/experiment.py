"""One replay with exactly one change, as a row of the report's table; the unchanged replay is the control."""

from dataclasses import dataclass
from typing import Any, Literal

from whynan.records.numbers import to_jsonable

ExperimentVerdict = Literal["control", "confirmed", "refuted", "inconclusive"]
NOTHING = "there was nothing to apply it to"
"""The outcome of a change that could not be made."""


@dataclass(frozen=True)
class Experiment:
    """What was changed and what came of it.

    `n_steps` are the steps that were run, `finite` whether all of them stayed so (None where the attempt says nothing).
    `loss` and `grad_norm` are those of the last step of a finite attempt.
    """

    change: str
    verdict: ExperimentVerdict
    remedy: str | None = None
    n_steps: int | None = None
    finite: bool | None = None
    loss: float | None = None
    grad_norm: float | None = None
    outcome: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "verdict": self.verdict,
            "remedy": self.remedy,
            "n_steps": self.n_steps,
            "finite": self.finite,
            "loss": to_jsonable(self.loss),
            "grad_norm": to_jsonable(self.grad_norm),
            "outcome": self.outcome,
        }
