"""What a check has found: in a terminal, as a page, as SARIF 2.1.0, as workflow commands of GitHub."""

import math
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape

import whynan
from whynan.check.graph import Range, plural
from whynan.check.suspects import CheckResult, Suspect
from whynan.check.witness import Replayed, Saved
from whynan.diagnosis.catalogue import all_causes, page_of
from whynan.live.finish import escaped, escaped_property

_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN = 25

_FOLDER = Path(__file__).parent / "templates"

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render(result: CheckResult, stream: Any) -> None:
    """Write what was found: suspects by rank, the review, and one line that sums up."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    if result.problem is not None and not result.suspects:
        console.print(f"[bold]nothing was checked[/]: {escape(result.problem)}")
        return
    standing = result.standing
    if standing:
        console.print("[bold]Suspects[/], those with a witness first")
        for rank, suspect in enumerate(standing[:_SHOWN], 1):
            _suspect(console, rank, suspect)
        if len(standing) > _SHOWN:
            console.print(f"  and {len(standing) - _SHOWN} more: --json FILE has all of them")
    review = [f for f in result.review if f.accepted is None]
    if review:
        console.print("\n[bold]Review of the first step[/]")
        for finding in review:
            where = f"{_relative(finding.file)}:{finding.line} " if finding.file and finding.line else ""
            console.print(
                f"  [{_STYLE[finding.severity]}]{finding.severity:8}[/] {escape(where + finding.message)}  "
                f"[dim]\\[{finding.check}][/]"
            )
    n_accepted = len(result.suspects) - len(standing) + len(result.review) - len(review)
    console.print()
    for note in result.notes:
        console.print(f"note: {escape(note)}")
    n_witnesses = sum(s.is_certain for s in standing)
    n_handled = sum(s.handled is not None for s in standing)
    counts = Counter(f.severity for f in review)
    parts = [
        f"{plural(len(standing), 'suspect')}, {n_witnesses} with a witness"
        + (f", {n_handled} handled by the script" if n_handled else ""),
        ", ".join(plural(counts[s], s) for s in ("error", "warning", "note") if counts[s]) or "nothing in the review",
    ]
    if n_accepted:
        parts.append(f"{n_accepted} accepted by a comment")
    console.print(
        f"{'; '.join(parts)}. {plural(result.steps, 'step')} of {escape(result.script)}, "
        f"{result.n_nodes} operations, {result.seconds:.1f} s"
    )


def render_saved(folders: Sequence[Path], argv: Sequence[str], stream: Any) -> None:
    console = Console(file=stream, highlight=False, soft_wrap=True)
    if not folders:
        console.print("no witness was saved: none was found that is made of values")
        return
    console.print(f"{plural(len(folders), 'witness', 'witnesses')} saved; to run a step on one again:")
    for folder in folders:
        command = ["whynan", "check", "--replay", _relative(str(folder)), *argv]
        console.print(f"  {escape(shlex.join(command))}")


def render_replay(replayed: Replayed, saved: Saved, stream: Any) -> None:
    console = Console(file=stream, highlight=False, soft_wrap=True)
    suspect = saved.suspect
    console.print(
        f"witness of [bold]{escape(_relative(suspect['file']))}:{suspect['line']}[/] in "
        f"{escape(suspect['function'])}   [dim]\\[{suspect['cause']}][/]"
    )
    console.print(f"  {escape(suspect['code'])}")
    for change in replayed.changes:
        console.print(f"  {escape(change)}")
    if replayed.operation is None:
        console.print("  this run has no such operation on that line any more")
    else:
        console.print(f"  {escape(replayed.operation)}")
    console.print(f"  loss: {replayed.before} on the script's own batch, {replayed.after} on the witness")
    shown = ", ".join(replayed.non_finite[:4]) + (" ..." if len(replayed.non_finite) > 4 else "")
    console.print(
        f"[bold red]the step fails[/]: non-finite is {escape(shown)}"
        if replayed.has_failed
        else "[green]the step stays finite[/]: loss and gradients"
    )


def _suspect(console: Console, rank: int, suspect: Suspect) -> None:
    place = suspect.place
    mark = (
        "[cyan]handled[/]"
        if suspect.handled is not None
        else "[bold red]witness[/]"
        if suspect.has_witness
        else "[yellow]possible[/]"
    )
    console.print(
        f"\n{rank:3}. {mark} [bold]{escape(_relative(place.file))}:{place.line}[/] in "
        f"{escape(place.function)}   "
        f"[dim]\\[{', also '.join((suspect.cause, *suspect.also))}][/]"
    )
    console.print(f"       {escape(place.code)}")
    console.print(f"     {'in the backward pass, ' if suspect.phase == 'backward' else ''}{escape(suspect.why)}")
    witness = suspect.witness
    if witness is not None and witness.found:
        console.print(f"     [red]fails[/]: {escape(witness.how)} -> {escape(witness.effect)}")
        for change in witness.changes[:3]:
            console.print(f"            {escape(change)}")
    elif witness is not None and witness.outcome == "remote":
        console.print(
            f"     [dim]fails only far from what was seen: {escape(witness.how)} -> {escape(witness.effect)}[/]"
        )
        console.print("     [dim]each sample of the recorded batches is far from it[/]")
    elif witness is not None:
        console.print(f"     [dim]witness {witness.outcome}: {escape(witness.how)}[/]")
    if suspect.handled is not None:
        place = suspect.handled
        console.print(
            f"     the script leaves such a step out: {escape(_relative(place.file))}:{place.line} {escape(place.code)}"
        )
    if suspect.remedies:
        console.print(f"     [green]try[/]   {', '.join(suspect.remedies)}   [dim]whynan explain {suspect.cause}[/]")


def _relative(path: str | None) -> str:
    if not path:
        return ""
    try:
        short = os.path.relpath(path)
    except ValueError:
        return path
    return path if short.startswith("..") else short


def page(result: CheckResult) -> str:
    """Return the page of a result: one file, nothing loaded from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["short"] = lambda path: os.path.relpath(path) if path else ""
    return environment.get_template("check.html.jinja").render(result=result, bar=bar, code=code)


def bar(x: Range) -> dict[str, Any]:
    """Return where a range lies on a logarithmic axis with 0 in the middle, from 0 to 100."""
    a, b = _place(x.lo), _place(x.hi)
    return {"left": round(a, 1), "width": round(max(b - a, 1.0), 1), "lo": f"{x.lo:.4g}", "hi": f"{x.hi:.4g}"}


def _place(x: float) -> float:
    if math.isinf(x):
        return 100.0 if x > 0 else 0.0
    size = min(math.log10(1 + abs(x) * 1e3) / 12, 1.0)
    return 50 + 48 * math.copysign(size, x)


def code(file: str, line: int, around: int = 2) -> list[tuple[int, str, bool]]:
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(n, lines[n - 1], n == line) for n in range(max(line - around, 1), min(line + around, len(lines)) + 1)]


def sarif(result: CheckResult) -> dict[str, Any]:
    """Return a log with one run: a rule for each cause and check, a result for each suspect and finding.

    What a comment accepts is there too, as suppressed in the source.
    """
    results: list[dict[str, Any]] = []
    for suspect in result.suspects:
        level = "error" if suspect.is_certain else "note" if suspect.handled is not None else "warning"
        text = f"{suspect.op}: {suspect.why}"
        if suspect.witness is not None and suspect.witness.found:
            text += f". It fails: {suspect.witness.how}, {suspect.witness.effect} is non-finite"
        results.append(
            _result(
                suspect.cause, level, text, suspect.place.file, suspect.place.line, suspect.accepted, suspect.place.code
            )
        )
    results += [_result(f.check, f.severity, f.message, f.file, f.line, f.accepted, None) for f in result.review]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "whynan",
                        "version": whynan.__version__,
                        "semanticVersion": whynan.__version__,
                        "informationUri": "https://whynan.readthedocs.io",
                        "rules": _rules(sorted({r["ruleId"] for r in results})),
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {
                        "executionSuccessful": result.problem is None,
                        **({"exitCodeDescription": result.problem} if result.problem else {}),
                    }
                ],
                "results": results,
            }
        ],
    }


def _rules(slugs: list[str]) -> list[dict[str, Any]]:
    causes = {cause.slug: cause for cause in all_causes()}
    found = []
    for slug in slugs:
        cause = causes.get(slug)
        text = page_of(cause).text.splitlines()[0] if cause is not None else slug.replace("-", " ")
        found.append({"id": slug, "shortDescription": {"text": text}, "help": {"text": f"whynan explain {slug}"}})
    return found


def _result(
    rule: str, level: str, text: str, file: str | None, line: int | None, accepted: str | None, code: str | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"ruleId": rule, "level": level, "message": {"text": text}}
    if file and line:
        region: dict[str, Any] = {"startLine": line}
        if code:
            region["snippet"] = {"text": code}
        found["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": _uri(file)}, "region": region}}]
    if accepted is not None:
        found["suppressions"] = [{"kind": "inSource", "justification": accepted}]
    return found


def _uri(file: str) -> str:
    short = os.path.relpath(file)
    return Path(short).as_posix() if not short.startswith("..") else Path(file).absolute().as_uri()


def annotations(result: CheckResult) -> Iterator[str]:
    for suspect in result.standing:
        level = "error" if suspect.is_certain else "notice" if suspect.handled is not None else "warning"
        text = f"{suspect.why}" + (
            f" (fails: {suspect.witness.how})" if suspect.witness and suspect.witness.found else ""
        )
        yield command(level, suspect.place.file, suspect.place.line, suspect.cause, text)
    for finding in result.review:
        if finding.accepted is None:
            level = {"error": "error", "warning": "warning", "note": "notice"}[finding.severity]
            yield command(level, finding.file, finding.line, finding.check, finding.message)


def command(level: str, file: str | None, line: int | None, title: str, message: str) -> str:
    """Return one workflow command; its special characters are escaped as GitHub's toolkit escapes them."""
    place = f"file={escaped_property(os.path.relpath(file))},line={line}," if file and line else ""
    return f"::{level} {place}title={escaped_property('whynan ' + title)}::{escaped(message)}"
