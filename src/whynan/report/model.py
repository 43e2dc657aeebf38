"""report.json to what a reader is told: the one place that chooses words. Renderers only lay out."""

import shlex
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whynan.records.recording import NOTHING
from whynan.report import words
from whynan.report.words import clean

_AROUND = 2
_LARGEST_FILE = 4_000_000
"""Bytes. Source files are small; whatever is larger is not worth reading for five lines."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class SourceRow:
    """One line of source with its number; `is_origin` where the report points at it."""

    number: int | None
    code: str
    is_origin: bool = False


def read_context(origin: Mapping[str, Any], roots: Sequence[Path]) -> tuple[SourceRow, ...]:
    """Return the origin's line with two lines around it; the recorded line alone where the file has changed or gone."""
    if origin.get("context"):
        return tuple(_recorded_row(row, origin) for row in origin["context"])
    line = origin.get("line")
    lines = _read_lines(origin, roots) if origin.get("file") and isinstance(line, int) else None
    if lines is None or line is None:
        return (SourceRow(line, clean(first_line(origin)), True),) if origin.get("code") else ()
    first = max(1, line - _AROUND)
    rows = [SourceRow(n, clean(lines[n - 1]), n == line) for n in range(first, min(len(lines), line + _AROUND) + 1)]
    return _dedented(rows)


def add_contexts(report: Mapping[str, Any], roots: Sequence[Path] = (Path(),)) -> None:
    """Put the source around each origin into the report: it is shown later where the file is not, or has changed."""
    for incident in (*report["incidents"], *report["skipped"]):
        origin = incident["origin"]
        rows = read_context(origin, roots) if origin else ()
        if len(rows) > 1:
            origin["context"] = [{"line": row.number, "code": row.code} for row in rows]


def _recorded_row(row: Mapping[str, Any], origin: Mapping[str, Any]) -> SourceRow:
    return SourceRow(row["line"], clean(row["code"]), row["line"] == origin.get("line"))


def first_line(origin: Mapping[str, Any]) -> str:
    return str(origin.get("code") or "").strip().split("\n")[0].strip()


def _read_lines(origin: Mapping[str, Any], roots: Sequence[Path]) -> list[str] | None:
    for root in roots:
        try:
            path = root / str(origin["file"])
            if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
                continue
            with tokenize.open(path) as file:
                lines = file.read().splitlines()
        except (OSError, SyntaxError, ValueError):
            continue
        if _is_as_recorded(lines, origin):
            return lines
    return None


def _is_as_recorded(lines: Sequence[str], origin: Mapping[str, Any]) -> bool:
    """Return whether the file still has the recorded code on that line: it may have been edited since the run."""
    line = int(origin["line"])
    return 1 <= line <= len(lines) and first_line(origin) in lines[line - 1]


def _dedented(rows: Sequence[SourceRow]) -> tuple[SourceRow, ...]:
    indents = [len(row.code) - len(row.code.lstrip()) for row in rows if row.code.strip()]
    margin = min(indents, default=0)
    return tuple(SourceRow(row.number, row.code[margin:].rstrip(), row.is_origin) for row in rows)


@dataclass(frozen=True)
class Origin:
    """The origin: `what` names the operation, `flow` its inputs and what came out, `values` what was measured."""

    place: str
    function: str | None
    what: str
    flow: str
    module: str | None
    rows: tuple[SourceRow, ...]
    values: tuple[str, ...]
    elements: str | None


@dataclass(frozen=True)
class Cause:
    """A cause; `known` says how it is known."""

    slug: str
    title: str
    explanation: str
    known: str
    confidence: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class PatchLine:
    """One line of a patch; `kind` is "add", "del", "meta" or "same"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Remedy:
    """A remedy; `mark` is what was found when it was tried, `state` the same for a renderer: yes, no, untried."""

    slug: str
    title: str
    mark: str
    state: str
    where: str | None
    outcome: str | None
    patch: tuple[PatchLine, ...]


@dataclass(frozen=True)
class Term:
    """One loss term; `note` says whether it, or its gradient only, is the first to be non-finite."""

    name: str
    value: str
    is_nonfinite: bool
    note: str


@dataclass(frozen=True)
class Step:
    op: str
    place: str
    function: str | None
    module: str | None
    phase: str
    value: str


@dataclass(frozen=True)
class Trial:
    """One experiment as a row; `state` is "control", "yes", "no", "untried", or "unused" where nothing came of it."""

    change: str
    slug: str | None
    steps: str
    loss: str
    grad_norm: str
    state: str
    mark: str
    outcome: str


@dataclass(frozen=True)
class Answer:
    """One of the five questions of the first screen with its answer; `state` as for a remedy, "" where it is none."""

    question: str
    text: str
    state: str = ""


@dataclass(frozen=True)
class Incident:
    """What a reader is told about one incident, in the order in which it matters."""

    headline: str
    noticed: str | None
    warning: str | None
    rerun: str | None
    origin: Origin | None
    no_origin: str
    cause: Cause | None
    no_cause: str
    other_causes: tuple[Cause, ...]
    samples: tuple[str, ...]
    remedies: tuple[Remedy, ...]
    terms: tuple[Term, ...]
    path: tuple[Step, ...]
    not_restored: tuple[str, ...]
    notes: tuple[str, ...]
    action: str | None
    answers: tuple[Answer, ...] = ()
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report. `is_silent` where there is nothing that a user did not expect."""

    headline: str
    is_silent: bool
    incidents: tuple[Incident, ...]
    script_error: str | None
    skipped: str | None
    run: tuple[tuple[str, str], ...]


def build(report: Json, roots: Sequence[Path] = ()) -> Page:
    """Return what to say about a report. Source files are looked for below `roots`, else in the working directory."""
    roots = tuple(roots) or (Path(),)
    incidents = tuple(_incident(item, report, roots) for item in report["incidents"])
    return Page(
        headline=incidents[0].headline if incidents else words.run_headline(report),
        is_silent=not incidents and report["outcome"] == "healthy",
        incidents=incidents,
        script_error=words.script_error(report),
        skipped=words.skipped(report.get("skipped") or ()),
        run=_run(report),
    )


def _incident(item: Json, report: Json, roots: Sequence[Path]) -> Incident:
    causes = tuple(_cause(cause, item, rank) for rank, cause in enumerate(item["causes"]))
    return Incident(
        headline=words.headline(item, report["outcome"]),
        noticed=_optional(item["symptom"].get("detail")),
        warning=words.replay_warning(item["replay"]),
        rerun=_rerun(item["replay"], report["run"]),
        origin=_origin(item["origin"], roots) if item["origin"] else None,
        no_origin=words.no_origin(item),
        cause=causes[0] if causes else None,
        no_cause=words.no_cause(item),
        other_causes=causes[1:],
        samples=tuple(words.sample(sample) for sample in item["samples"]),
        remedies=tuple(_remedy(remedy, item["replay"]) for remedy in item["remedies"]),
        terms=tuple(_term(term, (item["origin"] or {}).get("phase")) for term in item["loss_terms"]),
        path=tuple(_step(step) for step in item["path"]),
        not_restored=tuple(clean(name) for name in item["replay"].get("not_restored") or ()),
        notes=tuple(clean(note) for note in item.get("notes") or ()),
        action=_optional(item["action"].get("detail")),
        answers=tuple(Answer(*answer) for answer in words.answers(item, report["outcome"])),
        trials=tuple(_trial(trial) for trial in item.get("experiments") or ()),
    )


def _trial(trial: Json) -> Trial:
    state, mark = {
        "control": ("control", "control"),
        "confirmed": ("yes", "confirmed"),
        "refuted": ("no", "did not help"),
    }.get(trial["verdict"], ("untried", "says nothing"))
    n, finite = trial.get("n_steps"), trial.get("finite")
    steps = "" if n is None or finite is None else f"{words.plural(n, 'step')} finite" if finite else "failed"
    if trial.get("outcome") == NOTHING:
        state = "unused"
    return Trial(
        change=clean(trial["change"]),
        slug=_optional(trial.get("remedy")),
        steps=steps,
        loss="" if trial.get("loss") is None else words.number(_rounded(trial["loss"])),
        grad_norm="" if trial.get("grad_norm") is None else words.number(_rounded(trial["grad_norm"])),
        state=state,
        mark=mark,
        outcome=clean(trial.get("outcome") or ""),
    )


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _origin(origin: Json, roots: Sequence[Path]) -> Origin:
    return Origin(
        place=words.place(origin) or "line not known",
        function=_optional(origin.get("function")),
        what=words.operation(origin),
        flow=words.flow(origin),
        module=_optional(origin.get("module")),
        rows=read_context(origin, roots),
        values=tuple(words.value_range(tensor) for tensor in origin["inputs"]),
        elements=words.elements(origin),
    )


def _cause(cause: Json, incident: Json, rank: int) -> Cause:
    title, explanation = clean(cause["title"]), clean(cause["explanation"])
    return Cause(
        slug=clean(cause["slug"]),
        title=title,
        explanation="" if explanation == title else explanation,
        known=words.how_known(cause, incident) if rank == 0 else words.likelihood(cause["confidence"]),
        confidence=f"{cause['confidence']:.0%}",
        evidence=tuple(clean(fact) for fact in cause["evidence"]),
    )


def _remedy(remedy: Json, replay: Json) -> Remedy:
    state, mark = words.remedy_mark(remedy, replay)
    return Remedy(
        slug=clean(remedy["slug"]),
        title=clean(remedy["title"]),
        mark=mark,
        state=state,
        where=_optional(remedy.get("where")),
        outcome=_optional(remedy.get("outcome")),
        patch=_patch(remedy.get("patch")),
    )


def _patch(patch: str | None) -> tuple[PatchLine, ...]:
    lines = words.clean_lines(patch.strip("\n")) if patch else ()
    is_diff = any(line.startswith(("@@", "--- ", "+++ ")) for line in lines) or all(
        line.startswith(("+", "-", " ")) for line in lines
    )
    return tuple(PatchLine(_patch_kind(line) if is_diff else "same", line.rstrip()) for line in lines)


def _patch_kind(line: str) -> str:
    if line.startswith(("@@", "--- ", "+++ ")):
        return "meta"
    return {"+": "add", "-": "del"}.get(line[:1], "same")


def _term(term: Json, phase: str | None) -> Term:
    is_bad = words.is_nonfinite(term["value"])
    finite = "finite" if phase == "optimizer" else "finite; its gradient is not"
    first = "first to be non-finite" if is_bad else finite
    return Term(clean(term["name"]), words.number(term["value"]), is_bad, first if term.get("first_nonfinite") else "")


def _step(step: Json) -> Step:
    return Step(
        op=words.operation(step),
        place=words.place(step) or "line not known",
        function=_optional(step.get("function")),
        module=_optional(step.get("module")),
        phase=clean(step["phase"]),
        value=words.number(step["value"]),
    )


def _rerun(replay: Json, run: Json) -> str | None:
    """Return the command that traces the failing step in a second run, where it could not be replayed in the first."""
    if replay["method"] != "none" or not run["argv"]:
        return None
    return clean(f"whynan run --rerun {shlex.join(run['argv'])}")


def _run(report: Json) -> tuple[tuple[str, str], ...]:
    run = report["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    pairs = {
        "command": shlex.join(run["argv"]),
        "framework": run["framework"],
        "device": run["device"],
        "started": run["started"],
        "steps": run["steps"],
        "seconds": run["seconds"],
        "versions": versions,
        "whynan": report["whynan"],
    }
    return tuple((key, clean(value)) for key, value in pairs.items() if value not in (None, ""))


def _optional(value: object) -> str | None:
    return clean(value) if value not in (None, "") else None
