"""A report as text: the first screen answers what, where, why, which sample, and what to do."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from whynan.report import model, write_safely
from whynan.report.model import SourceRow
from whynan.report.words import clean

_LABEL_WIDTH = 11
_PIPE_WIDTH = 100
_WIDEST = 110
_NARROWEST = 40
_MAX_EXPLANATION_LINES = 3
_MAX_EVIDENCE = 2
_MAX_SAMPLES = 3
_MAX_REMEDIES = 4
_MAX_PATCH_LINES = 6
_MAX_NOTES = 3
_MAX_TERMS = 6
_MAX_CAUSES = 4
_MAX_MORE = 4
_PATH_ENDS = 3
_MARK_STYLES = {"yes": "bold green", "no": "red", "untried": "yellow"}
_PATCH_STYLES = {"add": "green", "del": "red", "meta": "dim", "same": ""}


@dataclass(frozen=True)
class Row:
    """A line of the report. Rows that are not `wraps` are cut at the edge (code) or left whole (`is_whole`: places)."""

    label: str
    text: Text
    wraps: bool = True
    is_whole: bool = False
    max_lines: int | None = None


def render(
    report: Mapping[str, Any],
    file: IO[str],
    *,
    out: Path | None = None,
    roots: Sequence[Path] = (),
    is_asked: bool = False,
) -> None:
    """Write a report to a stream: nothing at all for a healthy run, unless a user `is_asked` for it.

    `out` is the folder with the full report, named on the last line; `roots` are where source files are looked for.
    """
    page = model.build(report, roots)
    if page.is_silent and not is_asked:
        return
    probe = Console(file=file)
    is_plain = probe.is_dumb_terminal or probe.no_color or probe.legacy_windows
    is_styled = probe.is_terminal and not is_plain
    width = max(_NARROWEST, min(probe.width, _WIDEST)) if probe.is_terminal else _PIPE_WIDTH
    # The script may have left the cursor behind a progress bar.
    start = "" if is_asked else "\n"
    write_safely(start + _to_text(page, width, is_styled, out), file)


def _to_text(page: model.Page, width: int, is_styled: bool, out: Path | None) -> str:
    # Rendered into memory: rich would end the user's process where the pipe is broken.
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        force_terminal=is_styled,
        color_system="auto" if is_styled else None,
        width=width,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for row in _rows(page, out):
        for line in _lines(row, width, console):
            console.print(line, soft_wrap=True)
    text = buffer.getvalue()
    return text if is_styled else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _lines(row: Row, width: int, console: Console) -> Iterator[Text]:
    room = max(_NARROWEST - _LABEL_WIDTH, width - _LABEL_WIDTH) if row.label != "#" else width
    body = [row.text]
    if row.wraps and not row.is_whole:
        body = list(row.text.wrap(console, room, overflow="fold"))
    elif not row.is_whole:
        row.text.truncate(room, overflow="ellipsis")
    if row.max_lines is not None and len(body) > row.max_lines:
        body = body[: row.max_lines]
        body[-1].rstrip()
        body[-1].truncate(room - 2)
        body[-1].append(" …")
    for number, line in enumerate(body):
        line.rstrip()
        yield line if row.label == "#" else Text.assemble(_label(row.label if number == 0 else ""), line)


def _label(label: str) -> tuple[str, str]:
    return (f"  {label}".ljust(_LABEL_WIDTH), "dim")


def _rows(page: model.Page, out: Path | None) -> Iterator[Row]:
    for number, incident in enumerate(page.incidents[: 1 + _MAX_MORE]):
        yield from _incident(incident) if number == 0 else _incident_in_short(incident)
    if not page.incidents:
        yield Row("#", Text(page.headline, "bold"))
    if len(page.incidents) > 1 + _MAX_MORE:
        yield Row("#", Text(f"and {len(page.incidents) - 1 - _MAX_MORE} more"))
    if page.script_error:
        yield Row("error", Text(page.script_error), max_lines=_MAX_EXPLANATION_LINES)
    if page.skipped:
        yield Row("skipped", Text(page.skipped))
    if out is not None:
        yield Row("report", Text(clean(out / "report.html"), "cyan"), is_whole=True)


def _incident(incident: model.Incident) -> Iterator[Row]:
    yield Row("#", Text(incident.headline, "bold red"))
    if incident.warning:
        yield Row("replay", Text(incident.warning, "bold yellow"))
    if incident.rerun:
        yield Row("", Text.assemble("to trace it in a second run:  ", (incident.rerun, "bold")), is_whole=True)
    yield from _origin(incident)
    yield from _because(incident)
    yield from _several("sample", incident.samples, _MAX_SAMPLES)
    yield from _remedies(incident.remedies)
    yield from _terms(incident.terms)
    yield from _path(incident.path)
    yield from _others(incident.other_causes)
    if incident.action:
        yield Row("action", Text(incident.action))
    if incident.not_restored:
        yield Row("note", Text(f"not put back before the replay: {', '.join(incident.not_restored)}"))
    yield from _several("note", incident.notes, _MAX_NOTES)


def _incident_in_short(incident: model.Incident) -> Iterator[Row]:
    yield Row("#", Text(incident.headline, "bold red"))
    if incident.origin:
        yield Row("origin", _origin_line(incident.origin), is_whole=True)
    if incident.cause:
        yield Row("because", _cause_line(incident.cause))


def _origin(incident: model.Incident) -> Iterator[Row]:
    if incident.origin is None:
        yield Row("origin", Text(incident.no_origin))
        if incident.noticed:
            yield Row("", Text(f"noticed {incident.noticed}"))
        return
    yield Row("origin", _origin_line(incident.origin), is_whole=True)
    for row in incident.origin.rows:
        yield Row("", _source_line(row), wraps=False)


def _origin_line(origin: model.Origin) -> Text:
    where = f" in {origin.function}" if origin.function else ""
    module = f"   {origin.module}" if origin.module else ""
    flow = f"   {origin.flow}" if origin.flow else ""
    return Text.assemble((origin.place, "bold cyan"), where, "   ", (origin.what, "bold"), flow, (module, "dim"))


def _source_line(row: SourceRow) -> Text:
    number = "" if row.number is None else str(row.number)
    mark, style = (">", "bold") if row.is_origin else (" ", "dim")
    return Text.assemble((f"{mark} {number:>4} | ", "dim"), (row.code, style))


def _because(incident: model.Incident) -> Iterator[Row]:
    cause = incident.cause
    if cause is None:
        yield Row("because", Text(incident.no_cause))
        return
    yield Row("because", _cause_line(cause))
    if cause.explanation:
        yield Row("", Text(cause.explanation), max_lines=_MAX_EXPLANATION_LINES)
    for fact in cause.evidence[:_MAX_EVIDENCE]:
        yield Row("", Text.assemble(("measured: ", "dim"), fact), max_lines=2)
    yield Row("", Text(cause.known, "green" if cause.known.startswith("confirmed") else "yellow"), max_lines=2)


def _cause_line(cause: model.Cause) -> Text:
    return Text.assemble(cause.title, "  ", (f"[{cause.slug}]", "dim"))


def _several(label: str, lines: Sequence[str], most: int) -> Iterator[Row]:
    for number, line in enumerate(lines[:most]):
        yield Row(label if number == 0 else "", Text(line), max_lines=_MAX_EXPLANATION_LINES)
    if len(lines) > most:
        yield Row("", Text(f"and {len(lines) - most} more", "dim"))


def _remedies(remedies: Sequence[model.Remedy]) -> Iterator[Row]:
    # The patch of the best remedy only: the others have theirs in the full report.
    shown = next((remedy for remedy in remedies if remedy.state == "yes" and remedy.patch), None)
    shown = shown or next((remedy for remedy in remedies if remedy.state != "no" and remedy.patch), None)
    for number, remedy in enumerate(remedies[:_MAX_REMEDIES]):
        yield Row("try" if number == 0 else "", _remedy_line(remedy), max_lines=3)
        if remedy is shown:
            yield from _patch(remedy.patch)
    if len(remedies) > _MAX_REMEDIES:
        yield Row("", Text(f"and {len(remedies) - _MAX_REMEDIES} more", "dim"))


def _remedy_line(remedy: model.Remedy) -> Text:
    where = f" ({remedy.where})" if remedy.where else ""
    outcome = f", {remedy.outcome}" if remedy.outcome else ""
    mark = (remedy.mark, _MARK_STYLES[remedy.state])
    return Text.assemble(mark, ": ", remedy.title, where, outcome, "  ", (f"[{remedy.slug}]", "dim"))


def _patch(patch: Sequence[model.PatchLine]) -> Iterator[Row]:
    changed = [line for line in patch if line.kind in ("add", "del")] or list(patch)
    for line in changed[:_MAX_PATCH_LINES]:
        yield Row("", Text(f"  {line.text}", _PATCH_STYLES[line.kind]), wraps=False)
    if len(changed) > _MAX_PATCH_LINES:
        yield Row("", Text(f"  … {len(changed) - _MAX_PATCH_LINES} more lines", "dim"))


def _terms(terms: Sequence[model.Term]) -> Iterator[Row]:
    if not terms:
        return
    text = Text()
    for number, term in enumerate(terms[:_MAX_TERMS]):
        note = f" ({term.note})" if term.note else ""
        text.append(", " if number else "")
        text.append(f"{term.name} {term.value}{note}", "bold red" if term.is_nonfinite else "")
    text.append(f", and {len(terms) - _MAX_TERMS} more" if len(terms) > _MAX_TERMS else "")
    yield Row("terms", text)


def _path(path: Sequence[model.Step]) -> Iterator[Row]:
    if not path:
        return
    steps = [f"{step.op} {step.place}" for step in path]
    if len(steps) > _PATH_ENDS + 2:
        steps[_PATH_ENDS:-1] = [f"… {len(path) - _PATH_ENDS - 1} more"]
    yield Row("path", Text(" -> ".join(steps)))


def _others(causes: Sequence[model.Cause]) -> Iterator[Row]:
    if causes:
        named = ", ".join(f"{cause.slug} ({cause.confidence})" for cause in causes[:_MAX_CAUSES])
        yield Row("or else", Text(named))
