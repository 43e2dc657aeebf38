"""The Python interface: the same engine for those who edit their code; here what a run has found, as an object."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from whynan.records import CauseFound, Incident, Op, Recording, RemedyProposed, Sample
from whynan.report.saved import save


class Report:
    """What a watched run has found so far.

    `origin`, `causes`, `remedies` and `samples` are those of the first incident; `incidents` are all of them. In a
    notebook the report shows itself.
    """

    def __init__(self, recording: Recording, roots: tuple[Path, ...] = (Path(),)) -> None:
        self.recording = recording
        self._roots = roots

    @property
    def outcome(self) -> str:
        """Return "healthy", "non-finite", "diverging" or "script-error"."""
        return self.recording.outcome

    @property
    def incidents(self) -> tuple[Incident, ...]:
        return self.recording.incidents

    @property
    def origin(self) -> Op | None:
        """Return the operation that made the first non-finite value; None where there is none or it is not known."""
        origin: Op | None = self._first(lambda incident: incident.origin)
        return origin

    @property
    def causes(self) -> tuple[CauseFound, ...]:
        """Return the causes, most confident first."""
        return self._first(lambda incident: incident.causes) or ()

    @property
    def remedies(self) -> tuple[RemedyProposed, ...]:
        """Return the remedies; those that an experiment has confirmed come first."""
        return self._first(lambda incident: incident.remedies) or ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Return the guilty samples."""
        return self._first(lambda incident: incident.samples) or ()

    def _first(self, of: Callable[[Incident], Any]) -> Any:
        return of(self.incidents[0]) if self.incidents else None

    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds."""
        return self.recording.to_json()

    def save(self, out: str | Path) -> None:
        """Write report.json, report.html and history.npz into a folder. Raises OutputError."""
        save(self.recording, Path(out).absolute(), roots=self._roots)

    def __str__(self) -> str:
        import io

        from whynan.report.terminal import render

        text = io.StringIO()
        render(self._with_sources(), text, out=None, roots=self._roots)
        return text.getvalue().strip()

    def __repr__(self) -> str:
        first = self.incidents[0] if self.incidents else None
        if first is None:
            return f"<whynan report: {self.outcome}, {self.recording.run.steps} steps>"
        where = f" at {first.origin.source.file}:{first.origin.source.line}" if first.origin is not None else ""
        cause = f", {first.causes[0].slug}" if first.causes else ""
        return (
            f"<whynan report: {first.symptom.name} is {first.symptom.value} at step {first.symptom.step}{where}{cause}>"
        )

    def _repr_html_(self) -> str:
        from html import escape

        from whynan.report.html import render

        page = render(self._with_sources(), self.recording.history, self._roots)
        # A page of its own inside the notebook's: its styles stay there.
        return f'<iframe srcdoc="{escape(page)}" style="width:100%;height:36em;border:0"></iframe>'

    def _with_sources(self) -> dict[str, Any]:
        import json

        from whynan.report.model import add_contexts
        from whynan.report.saved import to_json_text

        report: dict[str, Any] = json.loads(to_json_text(self.to_json()))
        add_contexts(report, self._roots)
        return report
