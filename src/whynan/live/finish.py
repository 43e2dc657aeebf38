"""When a run has ended: its report to a file or a pipe, to trackers, to continuous integration, to TensorBoard."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from whynan.launch.host import tell
from whynan.launch.options import RunOptions
from whynan.records import Recording
from whynan.report import model
from whynan.report.output import write_safely


def hand_on(recording: Recording, options: RunOptions, roots: Sequence[Path]) -> None:
    """Give a saved recording to everybody who is to have it; each failure is told and stops none of the others."""
    import json

    from whynan.report.save import to_json_text
    from whynan.report.source import add_contexts

    report: dict[str, Any] = json.loads(to_json_text(recording.to_json()))
    add_contexts(report, roots)
    headline = model.build(report, roots).headline if report["incidents"] else None
    _try("writing the report as JSON", lambda: _as_json(report, options.json_file))
    _try("writing for TensorBoard", lambda: _to_board(report, options.tensorboard, roots))
    _try("handing the report to trackers", lambda: _to_trackers(recording, headline, options.out))
    _try("reporting to continuous integration", lambda: _to_ci(report, options.out, roots))


def _try(what: str, do: Callable[[], None]) -> None:
    try:
        do()
    except Exception as error:
        tell(f"{what} failed", error)


def _as_json(report: dict[str, Any], target: str | None) -> None:
    from whynan.report.save import to_json_text

    if target is None:
        return
    if target != "-":
        Path(target).write_text(to_json_text(report), "ascii")
    elif sys.__stdout__ is not None:
        if sys.stdout is not None:
            sys.stdout.flush()  # what the script has printed comes first
        write_safely(to_json_text(report), sys.__stdout__)


def _to_board(report: dict[str, Any], folder: Path | None, roots: Sequence[Path]) -> None:
    if folder is None or not report["incidents"]:
        return
    try:
        from whynan.live.tensorboard import TensorBoard
    except ImportError:
        return  # said at the start
    from whynan.report.markdown import render

    board = TensorBoard(folder)
    board.tell(render(report, roots), report["incidents"][0]["step"])
    board.close()


def _to_trackers(recording: Recording, headline: str | None, out: Path) -> None:
    from whynan.live.trackers import tell_trackers

    tell_trackers(recording.history, headline, out)


def _to_ci(report: dict[str, Any], out: Path, roots: Sequence[Path]) -> None:
    from whynan.live import ci

    if ci.is_ci(os.environ):
        ci.report_to_ci(report, out, roots, sys.__stderr__)
