"""Remedies are tried on the failing step: what a verdict is, what follows from it, and how a change becomes a patch.

No framework here; an adapter runs the attempts. The unchanged replay is the first row, for what is confirmed is
confirmed against it.
"""

import ast
import difflib
import linecache
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from whynan.diagnosis import catalogue
from whynan.records import Experiment, Incident
from whynan.records.recording import NOTHING, CauseFound, RemedyProposed

Kind = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """One remedy, tried.

    `confirmed`: with it, and nothing else changed, the same steps stay finite. `refuted`: they fail all the same.
    `inconclusive`: the change could not be applied, or something else ended the attempt. `outcome` says what was
    measured. `change` is the change in words; `patch` one line of code where it can be said in one.
    """

    slug: str
    kind: Kind
    outcome: str
    change: str | None = None
    patch: str | None = None
    measured: "Measured | None" = None

    @property
    def proved(self) -> bool | None:
        """Return the verdict as a report has it."""
        return {"confirmed": True, "refuted": False, "inconclusive": None}[self.kind]


@dataclass(frozen=True)
class Measured:
    """What an attempt showed. `failure` is None where it stayed finite, else what was non-finite."""

    n_steps: int
    loss: float | None = None
    grad_norm: float | None = None
    failure: str | None = None
    error: str | None = None
    n_applied: int | None = None
    """How often the change took hold, where that is counted: a change that never did proves nothing."""
    growth: float | None = None
    """The last loss over the first, where several steps were run."""


REFUSED = "the batch was refused"
"""The failure of a step that a library's own guard ended before there was a number to look at."""


def failure_of(what: str, name: str, kind: str) -> str:
    """Return a failure in words: "val_loss is nan", "the gradient fc.weight is inf"."""
    return f"{name or what} is {kind}" if what in ("loss", name) else f"the {what} {name} is {kind}".replace("  ", " ")


def judge(slug: str, change: str, measured: Measured, patch: str | None = None) -> Verdict:
    """Return the verdict on one attempt."""
    if measured.n_applied == 0:
        return Verdict(slug, "inconclusive", f"{change}: {NOTHING}", change, patch, measured)
    if measured.failure is not None:
        return Verdict(slug, "refuted", f"{change}: {measured.failure} all the same", change, patch, measured)
    if measured.error is not None:
        return Verdict(slug, "inconclusive", f"{change}: the step ended in {measured.error}", change, patch, measured)
    if measured.growth is not None and measured.growth > 1e3:
        grown = (
            f"{change}: still finite after {_steps(measured.n_steps)}, but the loss grew {measured.growth:.3g} times"
        )
        return Verdict(slug, "refuted", grown, change, patch, measured)
    return Verdict(slug, "confirmed", f"{change}: finite over {_measured(measured)}", change, patch, measured)


def _measured(measured: Measured) -> str:
    words = [_steps(measured.n_steps)]
    if measured.loss is not None:
        words.append(f"loss {measured.loss:.4g}")
    if measured.grad_norm is not None:
        words.append(f"gradient norm {measured.grad_norm:.3g}")
    return ", ".join(words)


def _steps(count: int) -> str:
    return "the step" if count <= 1 else f"{count} steps"


_N_OWN = 2
"""A cause's first remedy is what speaks for it, or the second where the first could not be tried."""


def best_verdicts(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """Return one verdict for each remedy: a remedy may be tried in several strengths, and one that helps is enough."""
    order = {"confirmed": 0, "refuted": 1, "inconclusive": 2}
    found: dict[str, Verdict] = {}
    for verdict in verdicts:
        known = found.get(verdict.slug)
        if known is None or order[verdict.kind] < order[known.kind]:
            found[verdict.slug] = verdict
    return found


def conclude_remedies(proposed: tuple[RemedyProposed, ...], verdicts: dict[str, Verdict]) -> tuple[RemedyProposed, ...]:
    """Return the remedies with what was tried: those that helped first, those that did not last."""
    found = []
    for remedy in proposed:
        verdict = verdicts.get(remedy.slug)
        if verdict is not None:
            patch = verdict.patch or remedy.patch
            remedy = replace(remedy, proved=verdict.proved, outcome=verdict.outcome, patch=patch)
        found.append(remedy)
    rank = {True: 0, None: 1, False: 2}
    return tuple(sorted(found, key=lambda remedy: rank[remedy.proved]))


def conclude_causes(causes: tuple[CauseFound, ...], verdicts: dict[str, Verdict]) -> tuple[CauseFound, ...]:
    """Return the causes with confidences that follow the verdicts on their own first remedies.

    A guard helps against several causes of one kind, and a smaller learning rate against much: a verdict moves a
    confidence, it does not overrule what was measured.
    """
    known = {cause.slug: cause for cause in catalogue.all_causes()}
    found = []
    for cause in causes:
        tried = [verdicts[slug] for slug in known[cause.slug].remedies[:_N_OWN] if slug in verdicts]
        own = [verdict for verdict in tried if verdict.kind != "inconclusive"][:1]
        kinds = {verdict.kind for verdict in own}
        confidence = cause.confidence
        evidence = cause.evidence
        if "confirmed" in kinds:
            confidence = 1 - (1 - confidence) * 0.6
            evidence = (*evidence, f"tried, {own[0].slug}: {own[0].outcome}")
        elif "refuted" in kinds:
            confidence *= 0.7
            evidence = (*evidence, f"tried, {own[0].slug}: {own[0].outcome}")
        found.append(replace(cause, confidence=min(confidence, 0.99), evidence=evidence))
    return tuple(sorted(found, key=lambda cause: -cause.confidence))


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
    failure = REFUSED if is_refused else failure_of(symptom.what, symptom.name, symptom.value)
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
