"""Everything saved about one run: what report.json holds, and what every renderer renders."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whynan.records.incident import Incident, picture_stem
from whynan.records.numbers import to_jsonable

SCHEMA = "whynan.report/1"
Outcome = Literal["healthy", "non-finite", "diverging", "script-error"]


@dataclass(frozen=True)
class RunInfo:
    """The run as a whole. `seconds` is wall time, `steps` the optimizer steps that were made."""

    argv: tuple[str, ...]
    framework: str | None
    versions: dict[str, str]
    device: str | None
    started: str
    seconds: float
    steps: int

    def to_json(self) -> dict[str, Any]:
        return {
            "argv": list(self.argv),
            "framework": self.framework,
            "versions": self.versions,
            "device": self.device,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Recording:
    """One run and its incidents. `skipped` are incidents that the script itself handled and survived."""

    version: str
    run: RunInfo
    outcome: Outcome
    incidents: tuple[Incident, ...] = ()
    skipped: tuple[Incident, ...] = ()
    history: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Per step: "loss", "grad_norm", "lr"; written to history.npz beside the report."""
    error: str | None = None
    """The script's own exception, where it ended with one that is no incident."""

    def files(self) -> dict[str, bytes]:
        """Return the pictures that belong beside the report, by name."""
        found: dict[str, bytes] = {}
        for number, incident in enumerate(self.incidents):
            for k, picture in enumerate(incident.pictures):
                found |= picture.files(picture_stem(number, k))
        return found

    def to_json(self) -> dict[str, Any]:
        data = {
            "schema": SCHEMA,
            "whynan": self.version,
            "run": self.run.to_json(),
            "outcome": self.outcome,
            "incidents": [incident.to_json(number) for number, incident in enumerate(self.incidents)],
            "skipped": [replace(incident, pictures=()).to_json() for incident in self.skipped],
            "history": {"file": "history.npz", "series": sorted(self.history)} if self.history else None,
            "error": self.error,
        }
        return to_jsonable(data)  # type: ignore[no-any-return]
