"""A report as Markdown: for issues, chats, coding agents, and the summary of a CI job."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whynan.report import model

_MOST_REMEDIES = 5
_SPECIAL = "\\`*_{}[]<>#|~!&$"


def render(report: Mapping[str, Any], roots: Sequence[Path] = ()) -> str:
    """Return the report as GitHub-flavoured Markdown. Text of the user's world stands there as text, whatever it is."""
    page = model.build(report, roots)
    lines: list[str] = []
    for incident in page.incidents:
        lines += [*_incident(incident), ""]
    if not page.incidents:
        lines += [f"## {_text(page.headline)}", ""]
    for line in (page.script_error, page.skipped):
        if line:
            lines += [_text(line), ""]
    facts = dict(page.run)
    shown = ("command", "framework", "device", "steps", "versions", "whynan")
    lines.append(", ".join(f"{key} {_code(facts[key])}" for key in shown if key in facts))
    return "\n".join(lines) + "\n"


def _incident(incident: model.Incident) -> Iterator[str]:
    yield f"## {_text(incident.headline)}"
    yield ""
    if incident.warning:
        yield f"> **{_text(incident.warning)}**"
        yield ""
    for answer in incident.answers[1:]:
        proof = {"yes": " (**proved**)", "no": " (tried, did not help)", "untried": " (not proved)"}.get(
            answer.state, ""
        )
        yield f"- **{answer.question}:** {_text(answer.text)}{proof}"
    yield ""
    yield from _origin(incident.origin)
    if incident.cause:
        yield f"**{_text(incident.cause.title)}** ({_code(incident.cause.slug)}; {_text(incident.cause.known)})"
        yield ""
        if incident.cause.explanation:
            yield _text(incident.cause.explanation)
            yield ""
        yield from (f"- {_text(fact)}" for fact in incident.cause.evidence)
        yield ""
    yield from _trials(incident.trials)
    for remedy in incident.remedies[:_MOST_REMEDIES]:
        where = f" at {_code(remedy.where)}" if remedy.where else ""
        yield f"- *{remedy.mark}*: {_text(remedy.title)}{where}" + (
            f", {_text(remedy.outcome)}" if remedy.outcome else ""
        )
        if remedy.patch:
            yield ""
            yield from _block("diff", [line.text for line in remedy.patch], "  ")
    if incident.path:
        yield ""
        yield "Path: " + " → ".join(f"{_text(step.op)} {_code(step.place)}" for step in incident.path)
    for note in incident.notes:
        yield f"- {_text(note)}"


def _origin(origin: model.Origin | None) -> Iterator[str]:
    if origin is None:
        return
    if origin.rows:
        rows = [f"{'>' if row.is_origin else ' '} {row.number or '':>4} | {row.code}" for row in origin.rows]
        yield from _block("", rows)
    yield from (f"- input: {_text(value)}" for value in origin.values)
    yield f"- {_text(origin.what)}" + (f": {_text(origin.flow)}" if origin.flow else "")
    yield ""


def _trials(trials: Sequence[model.Trial]) -> Iterator[str]:
    if not trials:
        return
    yield "| change | steps | loss | gradient norm | verdict |"
    yield "| --- | --- | --- | --- | --- |"
    for trial in (trial for trial in trials if trial.state != "unused"):
        cells = (trial.change, trial.steps, trial.loss, trial.grad_norm, trial.mark)
        yield "| " + " | ".join(_text(cell) for cell in cells) + " |"
    yield ""


def _block(language: str, lines: Sequence[str], indent: str = "") -> Iterator[str]:
    """Yield a fenced block whose fence no line of it can end."""
    longest = max((len(run) for line in lines for run in _runs(line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{indent}{fence}{language}"
    yield from (f"{indent}{line}" for line in lines)
    yield f"{indent}{fence}"
    yield ""


def _runs(line: str) -> list[str]:
    return "".join(char if char == "`" else " " for char in line).split()


def _code(text: str) -> str:
    """Return a code span that holds any text."""
    fence = "`" * (max((len(run) for run in _runs(text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _text(text: str) -> str:
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)
