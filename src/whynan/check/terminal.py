"""A result in the terminal; plain text where it is piped."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from whynan.check.ranges import plural
from whynan.check.result import CheckResult
from whynan.check.suspects import Suspect
from whynan.check.witness import Replayed, Saved

_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN = 25


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
    """Write where the witnesses are, and how one is run again."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    if not folders:
        console.print("no witness was saved: none was found that is made of values")
        return
    console.print(f"{plural(len(folders), 'witness', 'witnesses')} saved; to run a step on one again:")
    for folder in folders:
        command = ["whynan", "check", "--replay", _relative(str(folder)), *argv]
        console.print(f"  {escape(shlex.join(command))}")


def render_replay(replayed: Replayed, saved: Saved, stream: Any) -> None:
    """Write what a step has done on a saved witness."""
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
