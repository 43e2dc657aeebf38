"""In a terminal: progress bars where a human watches, then a summary that fits a screen, and findings by kind."""

import io
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from whynan.data.finding import SEVERITIES, Finding, Severity, all_checks
from whynan.data.result import Result
from whynan.report import is_interactive, write_safely
from whynan.report.words import clean, plural

_EVERY = 0.1
"""Seconds between two drawings."""

WIDTH = 110
SHOWN = 3
"""Findings of each kind that are shown without --all."""
_CLASSES = 6
_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}


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
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total or None)
        self._progress.refresh()

    def advance(self, n: int) -> None:
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


def render(result: Result, file: IO[str] | None = None, is_all: bool = False) -> None:
    """Print a result: with colours to a terminal, the same words without them to a pipe or a file."""
    file = file or sys.stdout
    page = Group(summary(result), findings(result, is_all), Text(closing(result, is_all)))
    if file.isatty():
        console = Console(file=file, highlight=False)
        console.width = min(console.width, WIDTH)
        console.print(page)
        return
    plain = io.StringIO()
    Console(file=plain, width=WIDTH, force_terminal=False, color_system=None, highlight=False).print(page)
    write_safely("\n".join(line.rstrip() for line in plain.getvalue().splitlines()) + "\n", file)


def summary(result: Result) -> RenderableType:
    """Return what people look for first: counts, classes, sizes, the numbers for Normalize, the loss at step 0."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines(result):
        table.add_row(f"  {name}", Text(clean(text)))
    return Group(Text(clean(headline(result)), style="bold"), table)


def headline(result: Result) -> str:
    known = result.n_files and result.n_read == 0
    how = "nothing read again, all known from the cache" if known else f"{plural(result.n_read, 'file')} read"
    if result.engine == "python":
        how = f"{plural(result.n_read, 'sample')} looked at"
    stopped = ", interrupted" if result.is_interrupted else ""
    return f"{result.path}: {result.format}, {how} in {result.seconds:.1f} s{stopped}"


def lines(result: Result) -> Iterator[tuple[str, str]]:
    statistics = result.statistics
    counts = [
        plural(n, what) for n, what in ((result.n_images, "image"), (statistics.n_annotations, "annotation")) if n
    ]
    n_classes = result.n_declared or len(statistics.classes)
    if n_classes:
        counts.append(f"{n_classes} class{'' if n_classes == 1 else 'es'}")
    if counts:
        yield "counts", ", ".join(counts)
    if statistics.classes:
        yield "classes", f"{_classes(statistics.classes)} ({statistics.counted_in})"
    if statistics.sizes:
        yield "images", _images(result)
    if statistics.box_sizes:
        yield "boxes", _boxes(result)
    channels = statistics.usual_channels
    if channels is not None:
        values = (", ".join(f"{value:.4f}" for value in each) for each in (channels.mean, channels.std))
        mean, std = values
        yield "Normalize", f"mean=[{mean}], std=[{std}]"
    for each in statistics.arrays[:_CLASSES]:
        yield "array", _array(each)
    if len(statistics.arrays) > _CLASSES:
        yield "", f"and {len(statistics.arrays) - _CLASSES} more arrays"
    losses = result.losses
    if losses:
        n = result.n_declared or len(statistics.classes)
        per = " per pixel" if statistics.counted_in == "pixels" else ""
        yield (
            "step 0",
            f"cross-entropy{per} of a fresh classifier: about {losses['uniform']:.3f} (ln {n}); "
            f"{losses['prior']:.3f} is what the class frequencies alone reach",
        )


def _classes(classes: Counter[str]) -> str:
    total = sum(classes.values())
    shown = [f"{name} {_count(n)} ({n / total:.0%})" for name, n in classes.most_common(_CLASSES)]
    more = len(classes) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _count(n: int) -> str:
    return f"{n:,}" if n < 10_000_000 else f"{n / 1e6:.0f}M"


def _images(result: Result) -> str:
    statistics = result.statistics
    if len(statistics.sizes) == 1:
        ((width, height),) = statistics.sizes
        sizes = f"all {width} x {height}"
    else:
        widths, heights = (_spread([(size[k], n) for size, n in statistics.sizes.items()]) for k in (0, 1))
        sizes = f"{len(statistics.sizes)} sizes, width {widths}, height {heights}"
    modes = ", ".join(
        mode if len(statistics.modes) == 1 else f"{n} {mode}" for mode, n in statistics.modes.most_common(4)
    )
    formats = ", ".join(f if len(statistics.formats) == 1 else f"{n} {f}" for f, n in statistics.formats.most_common(4))
    return f"{sizes}; {modes}; {formats}"


def _spread(values: list[tuple[int, int]]) -> str:
    values = sorted(values)
    return f"{values[0][0]} to {values[-1][0]}, median {_median(values)}"


def _median(values: list[tuple[int, int]]) -> int:
    half, seen = sum(n for _, n in values) / 2, 0
    for value, n in values:
        seen += n
        if seen >= half:
            return value
    return values[-1][0]


def _boxes(result: Result) -> str:
    statistics = result.statistics
    sizes = sorted(statistics.box_sizes.items())
    low, high, middle = 2.0 ** sizes[0][0], 2.0 ** (sizes[-1][0] + 1), _median(sizes)
    text = f"sqrt(area) {low:g} to {high:g} px, median {2.0**middle:g} to {2.0 ** (middle + 1):g}"
    per_image = statistics.per_image
    if per_image:
        n = sum(per_image.values())
        mean = sum(count * times for count, times in per_image.items()) / n
        text += f"; {mean:.1f} in an image, at most {max(per_image)}"
    return text


def _array(each: dict[str, object]) -> str:
    text = f"{each['name']}  {each['dtype']}{each['shape'] or ''}"
    mean, std, names = each["mean"], each["std"], each["names"]
    if isinstance(mean, list) and isinstance(std, list) and mean:
        if len(mean) <= 4:
            numbers = ", ".join(f"{m:.4g} ± {s:.4g}" for m, s in zip(mean, std))
            labels = f" ({', '.join(map(str, names))})" if isinstance(names, list) else ""
            text += f", mean ± std {numbers}{labels}"
        else:
            finite = [m for m in mean if math.isfinite(m)]
            text += f", means of {len(mean)} features {min(finite):.4g} to {max(finite):.4g}" if finite else ""
    return text


def findings(result: Result, is_all: bool) -> RenderableType:
    parts: list[RenderableType] = []
    checks = all_checks()
    for severity, slug, n, found in result.found.groups():
        check = checks[slug]
        cause = f"  -> {check.cause}" if check.cause and severity != "note" else ""
        head = Text.assemble(
            "\n", (f"{severity:8}", _STYLES[severity]), (slug, "bold"), f"  {n:,}  {check.title}", (cause, "dim")
        )
        parts.append(head)
        shown = found if is_all else found[: SHOWN if severity != "note" else 1]
        parts += [Padding(Text(clean(_one(finding)), overflow="fold"), (0, 0, 0, 4)) for finding in shown]
        if n > len(shown):
            parts.append(Text(f"    ... and {n - len(shown):,} more", style="dim"))
    return Group(*parts)


def _one(finding: Finding) -> str:
    place = finding.file if finding.annotation is None else f"{finding.file} #{finding.annotation}"
    return f"{place}: {finding.message}"


def closing(result: Result, is_all: bool) -> str:
    """Return the last line: how many of each severity, and where to go on."""
    counts = [plural(result.found.count(severity), severity) for severity in SEVERITIES if result.found.count(severity)]
    if not counts:
        return (
            "\nNothing found that would break a loss."
            if not result.is_interrupted
            else "\nInterrupted before anything was found."
        )
    text = ", ".join(counts)
    if not result.n_errors:
        text = f"no errors; {text}"
    hidden = any(n > (SHOWN if kind != "note" else 1) for kind, _, n, _ in result.found.groups())
    text += "; --all shows all of them" if hidden and not is_all else ""
    causes = list(dict.fromkeys(f.cause for f in result.found if f.severity == "error" and f.cause))
    text += f"; whynan explain {causes[0]} says more" if causes else ""
    text += "\nInterrupted: what is above is what was found until then." if result.is_interrupted else ""
    return f"\n{text}"
