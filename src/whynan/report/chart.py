"""Charts along a run's steps: a series of the history, several of the last steps, several incidents."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whynan.records.op import from_jsonable
from whynan.report.words import clean, plural, short_number

WIDTH, HEIGHT = 720, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 12, 18, 26
_MOST_POINTS = 600
"""About one point for each pixel of the plot; more only makes the file larger."""
_LOG_FROM = 100.0
"""A series whose largest value is this many times its smallest is drawn on a logarithmic scale: two decades."""
_MOST_TICKS = 5
_ROOM = 190.0
"""What the label of an incident takes along the axis, and that of the axis' end."""
_TITLES = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate", "scale": "loss scale"}

_MOST_LINES = 8
"""Colours that can be told apart; further series are named and not drawn."""

TIME_WIDTH, TIME_HEIGHT = 720, 66
_TIME_LEFT, _TIME_RIGHT, _LINE = 16, 16, 46
_APART = 24.0
"""A dot's size and a little: numbers must not lie on each other."""
_MOST_INCIDENTS = int((TIME_WIDTH - _TIME_LEFT - _TIME_RIGHT) / _APART)


@dataclass(frozen=True)
class Tick:
    y: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A value that no line can show, at its step: NaN or an infinity."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """One drawing. `lines` are SVG point lists, broken where the series is non-finite; a flat one needs words only."""

    title: str
    summary: str
    lines: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    first: str
    last: str
    is_flat: bool
    incidents: tuple[Mark, ...] = ()
    """Where in time the incidents are."""
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    is_log: bool

    def y(self, value: float) -> float:
        low, high, at = (_lg(v) if self.is_log else v for v in (self.low, self.high, value))
        # Halved before they are subtracted: two finite values may be further apart than a float can say.
        share = (at / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)


def draw(name: str, values: Sequence[float], steps: Sequence[int] = (), n_steps: int = 0) -> Chart | None:
    """Return a series as a drawing; None where there is nothing to see: fewer than two values.

    `steps` are those of incidents, of a run of `n_steps`.
    """
    if len(values) < 2:
        return None
    finite = [value for value in values if math.isfinite(value)]
    scale = _scale(finite)
    certain = abs(len(values) - n_steps) <= 1
    # The step of an incident that ended the run has left no value; it has its place behind the others.
    n = len(values) + (certain and len(values) in steps)
    runs = list(_runs(values, scale, n))
    incidents = tuple(_incidents(len(values), n, steps, n_steps))
    n_bad = len(values) - len(finite)
    kind = " (logarithmic)" if scale.is_log else ""
    return Chart(
        title=clean(_TITLES.get(name, name)) + kind,
        summary=_summary(finite, n_bad),
        lines=tuple(" ".join(f"{x},{y}" for x, y in run) for run in runs if len(run) > 1),
        dots=tuple(run[0] for run in runs if len(run) == 1),
        marks=tuple(_marks(values, n)),
        ticks=tuple(Tick(scale.y(value), short_number(value)) for value in _tick_values(scale)) if finite else (),
        first=_unless_near(
            _LEFT, incidents, "step 0" if certain else f"{plural(len(values), 'step')}, older ones thinned"
        ),
        last=_unless_near(WIDTH - _RIGHT, incidents, f"step {n - 1}" if certain else "now"),
        is_flat=n_bad == 0 and scale.low == scale.high,
        incidents=incidents,
    )


def _unless_near(x: float, incidents: Sequence[Mark], label: str) -> str:
    """Return a label of the axis; "" where that of the last incident needs its room."""
    return "" if incidents and abs(incidents[-1].x - x) < _ROOM else label


def _incidents(n_values: int, n: int, steps: Sequence[int], n_steps: int) -> Iterator[Mark]:
    """Yield a mark for each incident whose place in the series is certain.

    A series with a value for each step is read by its number. Of a longer run the older values have been thinned: there
    only the last step's place is known, at the right end.
    """
    for step in steps:
        if step < n and abs(n_values - n_steps) <= 1:
            yield Mark(_x(step, n), f"incident at step {step}")
        elif step >= n_steps - 1:
            yield Mark(_x(n - 1, n), f"incident at step {step}")


def _summary(finite: Sequence[float], n_bad: int) -> str:
    parts = []
    if finite and min(finite) == max(finite):
        parts.append(f"{short_number(finite[0])} throughout")
    elif finite:
        low, high, last = (short_number(value) for value in (min(finite), max(finite), finite[-1]))
        parts.append(f"from {low} to {high}, last finite value {last}")
    if n_bad:
        parts.append(f"{n_bad} non-finite")
    return "; ".join(parts)


def _scale(finite: Sequence[float]) -> _Scale:
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    is_log = low > 0 and high / low >= _LOG_FROM
    return _Scale(low, high, is_log)


def _tick_values(scale: _Scale) -> Iterator[float]:
    if not scale.is_log:
        yield from sorted({scale.low, scale.low / 2 + scale.high / 2, scale.high})
        return
    first, last = math.ceil(_lg(scale.low)), math.floor(_lg(scale.high))
    step = max(1, math.ceil((last - first + 1) / _MOST_TICKS))
    yield from (float(f"1e{exponent}") for exponent in range(first, last + 1, step))


def _x(step: int, n: int) -> float:
    return round(_LEFT + step / (n - 1) * (WIDTH - _LEFT - _RIGHT), 1)


def _runs(values: Sequence[float], scale: _Scale, n: int) -> Iterator[list[tuple[float, float]]]:
    """Yield stretches of finite values as points, thinned so that the extremes of each pixel stay."""
    run: list[tuple[float, float]] = []
    for step in _kept(values):
        if math.isfinite(values[step]):
            run.append((_x(step, n), scale.y(values[step])))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _kept(values: Sequence[float]) -> Iterator[int]:
    width = max(1, math.ceil(2 * len(values) / _MOST_POINTS))
    if width <= 2:
        yield from range(len(values))
        return
    for start in range(0, len(values), width):
        steps = range(start, min(start + width, len(values)))
        finite = [step for step in steps if math.isfinite(values[step])]
        kept = (
            {min(finite, key=lambda step: values[step]), max(finite, key=lambda step: values[step])}
            if finite
            else set()
        )
        kept.update(step for step in steps if not math.isfinite(values[step]))
        yield from sorted(kept)


def _marks(values: Sequence[float], n: int) -> Iterator[Mark]:
    last = -math.inf
    for step, value in enumerate(values):
        x = _x(step, n)
        # Marks closer than two pixels would lie on each other.
        if not math.isfinite(value) and x - last >= 2:
            last = x
            yield Mark(x, "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf")


def _lg(value: float) -> float:
    return math.log10(value)


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
    ticks: tuple[Tick, ...]
    first: str
    last: str
    incident: float | None
    left: float
    right: float
    top: float
    bottom: float


def draw_lines(title: str, steps: Sequence[int], series: Mapping[str, Sequence[Any]], failing: int) -> Lines | None:
    """Return the drawing, with the `failing` step marked; None where no series has two values."""
    read = {name: [math.nan if v is None else float(from_jsonable(v)) for v in row] for name, row in series.items()}
    present = {name: [v is not None for v in row] for name, row in series.items()}
    finite = [v for row in read.values() for v in row if math.isfinite(v)]
    if len(steps) < 2 or len(finite) < 2:
        return None
    scale = _scale(finite)
    lines = []
    for number, (name, row) in enumerate(list(read.items())[:_MOST_LINES]):
        runs = list(_runs_of_line(row, present[name], scale))
        bad = tuple(_x(k, len(row)) for k, value in enumerate(row) if present[name][k] and not math.isfinite(value))
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
        ticks=tuple(Tick(scale.y(value), short_number(value)) for value in _tick_values(scale)),
        first=f"step {steps[0]}",
        last=f"step {steps[-1]}" + (", the incident" if steps[-1] == failing else ""),
        incident=_x(len(steps) - 1, len(steps)) if steps[-1] == failing else None,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        top=_TOP,
        bottom=HEIGHT - _BOTTOM,
    )


def _runs_of_line(row: Sequence[float], present: Sequence[bool], scale: _Scale) -> Iterator[list[tuple[float, float]]]:
    """Yield stretches of points; what was not looked at does not break a line, what is not finite does."""
    run: list[tuple[float, float]] = []
    for k, value in enumerate(row):
        if math.isfinite(value):
            run.append((_x(k, len(row)), scale.y(value)))
        elif present[k] and run:
            yield run
            run = []
    if run:
        yield run


@dataclass(frozen=True)
class Point:
    """One incident: where on the line it lies, where its dot has room, and its number, which leads to it."""

    x: float
    dot: float
    number: int
    title: str


@dataclass(frozen=True)
class Timeline:
    points: tuple[Point, ...]
    end: str
    line: float = _LINE


def draw_timeline(incidents: Sequence[Mapping[str, Any]], headlines: Sequence[str], n_steps: int) -> Timeline | None:
    """Return the line; None for fewer than two incidents. Of very many the first ones have a place."""
    if len(incidents) < 2:
        return None
    last = max(n_steps, *(int(incident["step"]) for incident in incidents), 1)
    places = [
        round(_TIME_LEFT + int(incident["step"]) / last * (TIME_WIDTH - _TIME_LEFT - _TIME_RIGHT), 1)
        for incident in incidents[:_MOST_INCIDENTS]
    ]
    points = tuple(
        Point(x, dot, number, headline)
        for number, (x, dot, headline) in enumerate(zip(places, _spread(places), headlines), 1)
    )
    return Timeline(points, f"step {last}")


def _spread(places: Sequence[float]) -> list[float]:
    """Move dots to the right until each has room, then those that stand beyond the end to the left."""
    dots: list[float] = []
    for x in places:
        dots.append(max(x, dots[-1] + _APART) if dots else x)
    room = float(TIME_WIDTH - _TIME_RIGHT)
    for k in range(len(dots) - 1, -1, -1):
        dots[k] = round(min(dots[k], room), 1)
        room = dots[k] - _APART
    return dots
