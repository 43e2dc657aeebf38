"""Progress bars on standard error, where a human watches; nothing anywhere else."""

import time
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from whynan.report.output import is_interactive, write_safely
from whynan.report.words import clean

_EVERY = 0.1
"""Seconds between two drawings."""


class Bars:
    """Draws by itself, without a thread: a process that has one cannot be forked safely."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file
        self._drawn = 0.0
        self._task: TaskID | None = None
        self._progress: Progress | None = None
        if file is not None and is_interactive(file):
            columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            console = Console(file=file, highlight=False)
            self._progress = Progress(*columns, console=console, auto_refresh=False, transient=True)

    def tell_plan(self, plan: Any) -> None:
        """Say which format was recognised."""
        where = f"{len(plan.parts)} parts: " if len(plan.parts) > 1 else ""
        some = ", ".join(f"{part.format} in {part.file}" for part in plan.parts[:4])
        more = ", ..." if len(plan.parts) > 4 else ""
        self._print(f"recognised {where}{some}{more}")

    def _print(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(clean(text), markup=False, style="dim")
        elif self._file is not None:
            write_safely(f"whynan: {clean(text)}\n", self._file)

    def stage(self, name: str, total: int) -> None:
        """Begin with something else."""
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total or None)
        self._progress.refresh()

    def advance(self, n: int) -> None:
        """Tell of `n` more files."""
        if self._progress is None or self._task is None:
            return
        self._progress.advance(self._task, n)
        now = time.monotonic()
        if now - self._drawn >= _EVERY:
            self._drawn = now
            self._progress.refresh()

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
