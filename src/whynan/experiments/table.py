"""Experiments as the rows of a table: the unchanged replay first, for what is confirmed is confirmed against it."""

from collections.abc import Iterable

from whynan.experiments.verdict import Measured, Verdict
from whynan.records import Experiment, Incident


def rows(incident: Incident, verdicts: Iterable[Verdict], controls: Iterable[Measured] = ()) -> tuple[Experiment, ...]:
    """Return the controls, then the verdicts in the order in which they were made.

    The first control is the replay of the failing step that the incident was traced in; `controls` are replays of
    several steps.
    """
    found = list(verdicts)
    if not found:
        return ()
    first = _failed_replay(incident)
    return (*([first] if first else []), *dict.fromkeys(map(_control, controls)), *map(_row, found))


def _failed_replay(incident: Incident) -> Experiment | None:
    if not incident.replay.reproduced:
        return None
    symptom = incident.symptom
    failure = (
        f"{symptom.what} is {symptom.value}"
        if symptom.name in ("", symptom.what)
        else (f"{symptom.what} {symptom.name} is {symptom.value}")
    )
    return Experiment("nothing: the step as it was", "control", None, 1, False, outcome=failure)


def _control(measured: Measured) -> Experiment:
    n = measured.n_steps
    words = "nothing: the step as it was" if n <= 1 else f"nothing: the last {n} steps as they were"
    return Experiment(words, "control", None, n, measured.failure is None, outcome=measured.failure or measured.error)


def _row(verdict: Verdict) -> Experiment:
    measured = verdict.measured
    change = verdict.change or verdict.slug
    said = verdict.outcome.removeprefix(f"{change}: ")
    if measured is None:
        return Experiment(change, verdict.kind, verdict.slug, outcome=said)
    is_applied = measured.n_applied != 0 and measured.error is None
    return Experiment(
        change,
        verdict.kind,
        verdict.slug,
        measured.n_steps,
        measured.failure is None if is_applied else None,
        measured.loss,
        measured.grad_norm,
        said,
    )
