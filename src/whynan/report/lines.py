"""Several series over the same steps in one drawing: the loss and its terms."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whynan.records.op import from_jsonable
from whynan.report import chart
from whynan.report.words import clean, short_number

_MOST = 8
"""Colours that can be told apart; further series are named and not drawn."""


@dataclass(frozen=True)
class Line:
    """One series: a colour's number, its name with its last value, and its parts as SVG point lists."""

    number: int
    name: str
    points: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    bad: tuple[float, ...]


@dataclass(frozen=True)
class Lines:
    title: str
    summary: str
    lines: tuple[Line, ...]
    ticks: tuple[chart.Tick, ...]
    first: str
    last: str
    incident: float | None
    left: float
    right: float
    top: float
    bottom: float


def draw(title: str, steps: Sequence[int], series: Mapping[str, Sequence[Any]], failing: int) -> Lines | None:
    """Return the drawing, with the `failing` step marked; None where no series has two values."""
    read = {name: [math.nan if v is None else float(from_jsonable(v)) for v in row] for name, row in series.items()}
    present = {name: [v is not None for v in row] for name, row in series.items()}
    finite = [v for row in read.values() for v in row if math.isfinite(v)]
    if len(steps) < 2 or len(finite) < 2:
        return None
    scale = chart._scale(finite)
    lines = []
    for number, (name, row) in enumerate(list(read.items())[:_MOST]):
        runs = list(_runs(row, present[name], scale))
        bad = tuple(
            chart._x(k, len(row)) for k, value in enumerate(row) if present[name][k] and not math.isfinite(value)
        )
        last = next((v for v, there in zip(reversed(row), reversed(present[name])) if there), math.nan)
        lines.append(
            Line(
                number,
                f"{clean(name)} {short_number(last)}",
                tuple(" ".join(f"{x},{y}" for x, y in run) for run in runs if len(run) > 1),
                tuple(run[0] for run in runs if len(run) == 1),
                bad,
            )
        )
    kind = " (logarithmic)" if scale.is_log else ""
    return Lines(
        title=title + kind,
        summary="at the last step: " + ", ".join(line.name for line in lines),
        lines=tuple(lines),
        ticks=tuple(chart.Tick(scale.y(value), short_number(value)) for value in chart._tick_values(scale)),
        first=f"step {steps[0]}",
        last=f"step {steps[-1]}" + (", the incident" if steps[-1] == failing else ""),
        incident=chart._x(len(steps) - 1, len(steps)) if steps[-1] == failing else None,
        left=chart._LEFT,
        right=chart.WIDTH - chart._RIGHT,
        top=chart._TOP,
        bottom=chart.HEIGHT - chart._BOTTOM,
    )


def _runs(row: Sequence[float], present: Sequence[bool], scale: chart._Scale) -> Iterator[list[tuple[float, float]]]:
    """Yield stretches of points; what was not looked at does not break a line, what is not finite does."""
    run: list[tuple[float, float]] = []
    for k, value in enumerate(row):
        if math.isfinite(value):
            run.append((chart._x(k, len(row)), scale.y(value)))
        elif present[k] and run:
            yield run
            run = []
    if run:
        yield run
