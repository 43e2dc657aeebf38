"""What `whynan check` has found, as data: check.json."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from whynan.check.suspects import Suspect

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One remark of the review."""

    check: str
    severity: Severity
    message: str
    line: int | None = None
    file: str | None = None
    value: str | None = None
    cause: str | None = None
    accepted: str | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "check": self.check,
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "message": self.message,
            "value": self.value,
            "cause": self.cause,
        }
        if self.accepted is not None:
            found["accepted"] = self.accepted
        return found


@dataclass
class CheckResult:
    """All of one check."""

    script: str
    steps: int = 0
    seconds: float = 0.0
    framework: str | None = None
    suspects: list[Suspect] = field(default_factory=list)
    review: list[Finding] = field(default_factory=list)
    n_nodes: int = 0
    problem: str | None = None
    """Why there is nothing to judge, where there is not."""
    notes: list[str] = field(default_factory=list)

    @property
    def standing(self) -> list[Suspect]:
        """Suspects that no comment accepts."""
        return [s for s in self.suspects if s.accepted is None]

    @property
    def has_errors(self) -> bool:
        """Whether a suspect with a witness that the script does not handle, or an error of the review, stands."""
        return any(s.is_certain for s in self.standing) or any(
            f.severity == "error" and f.accepted is None for f in self.review
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "whynan.check/1",
            "script": self.script,
            "framework": self.framework,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "operations": self.n_nodes,
            "problem": self.problem,
            "notes": self.notes,
            "suspects": [s.to_json(rank) for rank, s in enumerate(self.suspects, 1)],
            "review": [f.to_json() for f in self.review],
        }


def number(x: float) -> float | str:
    """Return a number as JSON can hold it."""
    if math.isnan(x):
        return "nan"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    return x
