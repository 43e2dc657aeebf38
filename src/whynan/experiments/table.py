"""Experiments as the rows of a table, and the change of one line as a unified diff that parses.

The unchanged replay is the first row, for what is confirmed is confirmed against it.
"""

import ast
import difflib
import linecache
from collections.abc import Iterable
from pathlib import Path

from whynan.experiments.verdict import Measured, Verdict, failure_of
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
    words = [verdict.change for verdict in found]
    # The same change elsewhere on the line is another change: the page must not say that one both failed and helped.
    tried = [_row(v, _put_in(v.patch) if v.patch and words.count(v.change) > 1 else "") for v in found]
    return (*([first] if first else []), *dict.fromkeys(map(_control, controls)), *tried)


def _put_in(patch: str) -> str:
    """Return what a patch of one line has put into it; "" where it is no such patch."""
    lines = [line for line in patch.splitlines() if not line.startswith(("---", "+++"))]
    old, new = ([line[1:] for line in lines if line.startswith(sign)] for sign in "-+")
    if len(old) != 1 or len(new) != 1:
        return ""
    before = _n_alike(old[0], new[0])
    rest, put = old[0][before:], new[0][before:]
    return put[: len(put) - _n_alike(rest[::-1], put[::-1])].strip()


def _n_alike(one: str, other: str) -> int:
    return next((k for k, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _failed_replay(incident: Incident) -> Experiment | None:
    if not incident.replay.reproduced:
        return None
    symptom = incident.symptom
    is_refused = symptom.what == "input" and incident.origin is not None and incident.origin.framework_op == "guard"
    failure = "the batch was refused" if is_refused else failure_of(symptom.what, symptom.name, symptom.value)
    return Experiment("nothing: the step as it was", "control", None, 1, False, outcome=failure)


def _control(measured: Measured) -> Experiment:
    n = measured.n_steps
    words = "nothing: the step as it was" if n <= 1 else f"nothing: the last {n} steps as they were"
    return Experiment(words, "control", None, n, measured.failure is None, outcome=measured.failure or measured.error)


def _row(verdict: Verdict, put_in: str) -> Experiment:
    measured = verdict.measured
    change = verdict.change or verdict.slug
    said = verdict.outcome.removeprefix(f"{change}: ")
    change += f": {put_in}" if put_in else ""
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


_LIKE = 0.45
"""A suggestion that has less in common with the line than this is no new form of it."""


def patched_source(file: str, line: int, new: str) -> str | None:
    """Return the file's source with one line replaced, indented as it was; None where that is no program."""
    lines = linecache.getlines(file)
    if not 1 <= line <= len(lines) or "\n" in new.strip():
        return None
    old = lines[line - 1]
    stripped = old.strip()
    if not stripped or stripped == new.strip() or "..." in new:
        return None
    if difflib.SequenceMatcher(None, stripped, new.strip()).ratio() < _LIKE:
        return None
    indent = old[: len(old) - len(old.lstrip())]
    changed = [*lines]
    changed[line - 1] = indent + new.strip() + ("\n" if old.endswith("\n") else "")
    source = "".join(changed)
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    return source


def unified_diff(file: str, line: int, new: str, name: str | None = None) -> str | None:
    """Return the change as `patch -p1` takes it; None where the new line does not make a program."""
    source = patched_source(file, line, new)
    if source is None:
        return None
    shown = (name or Path(file).name).lstrip("/")
    old = "".join(linecache.getlines(file))
    diff = difflib.unified_diff(
        old.splitlines(keepends=True), source.splitlines(keepends=True), f"a/{shown}", f"b/{shown}", n=2
    )
    return "".join(part if part.endswith("\n") else f"{part}\n\\ No newline at end of file\n" for part in diff)
