"""Values by layer and step as a heat map; the template turns its parts into SVG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from whynan.records.op import from_jsonable
from whynan.report.words import clean, short_number

WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 190, 12, 6, 24
_ROW = 15
_N_LEVELS = 24
_LABEL = 30
"""Letters of a layer's name that have room; its end says more than its beginning."""

# Five points of the viridis scale (van der Walt, Smith, Firing 2015): even in lightness, fit for colour-blind readers.
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@dataclass(frozen=True)
class Cells:
    """All cells of one colour as one SVG path."""

    colour: str
    path: str


@dataclass(frozen=True)
class RowLabel:
    y: float
    text: str
    full: str


@dataclass(frozen=True)
class HeatMap:
    """One map. `bad` is the path of the non-finite cells, `unknown` of those not measured,
    `incident` of a frame around the failing step; `ends` are the scale's least and largest value in words."""

    title: str
    summary: str
    cells: tuple[Cells, ...]
    bad: str
    unknown: str
    rows: tuple[RowLabel, ...]
    height: float
    first: str
    last: str
    ends: tuple[str, str]
    incident: str | None
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = 0.0
    top: float = _TOP


def draw(
    title: str, layers: Sequence[str], steps: Sequence[int], table: Sequence[Sequence[Any]], failing: int
) -> HeatMap | None:
    """Return values[layer][step] as a map on a logarithmic scale; None where there are too few to see anything.

    Layers without any value are left out. The column of the `failing` step is marked.
    """
    if not table or len(steps) < 2:
        return None
    seen = [k for k, row in enumerate(table) if any(v is not None for v in row)]
    layers = [layers[k] for k in seen]
    values = [[None if v is None else float(from_jsonable(v)) for v in table[k]] for k in seen]
    known = [v for row in values for v in row if v is not None and math.isfinite(v) and v > 0]
    if not known:
        return None
    low, high = math.log10(min(known)), math.log10(max(known))
    paths: dict[int, list[str]] = {}
    bad: list[str] = []
    unknown: list[str] = []
    width = (WIDTH - _LEFT - _RIGHT) / len(steps)
    for y, x, value in _positions(values, width):
        cell = f"M{x:.1f} {y}h{width:.1f}v{_ROW - 1}h{-width:.1f}z"
        if value is None:
            unknown.append(cell)
        elif not math.isfinite(value):
            bad.append(cell)
        else:
            paths.setdefault(_level(value, low, high), []).append(cell)
    bottom = _TOP + _ROW * len(layers)
    return HeatMap(
        title=title,
        summary=_summary(layers, values),
        cells=tuple(Cells(_colour(level), "".join(cells)) for level, cells in sorted(paths.items())),
        bad="".join(bad),
        unknown="".join(unknown),
        rows=tuple(RowLabel(_TOP + _ROW * k + 11, _short(clean(name)), clean(name)) for k, name in enumerate(layers)),
        height=bottom + _BOTTOM,
        first=f"step {steps[0]}",
        last=f"step {steps[-1]}" + (", the incident" if steps[-1] == failing else ""),
        ends=(short_number(min(known)), short_number(max(known))),
        incident=f"M{WIDTH - _RIGHT - width:.1f} {_TOP - 2}h{width:.1f}V{bottom + 1}h{-width:.1f}z"
        if steps[-1] == failing
        else None,
        bottom=bottom,
    )


def colours() -> tuple[str, ...]:
    """Return the scale, least first, for a legend."""
    return tuple(_colour(level) for level in range(0, _N_LEVELS, 3))


def _positions(values: Sequence[Sequence[float | None]], width: float) -> Iterator[tuple[int, float, float | None]]:
    for layer, row in enumerate(values):
        for step, value in enumerate(row):
            yield _TOP + _ROW * layer, _LEFT + step * width, value


def _level(value: float, low: float, high: float) -> int:
    if value <= 0 or high <= low:
        return 0
    return min(_N_LEVELS - 1, int((math.log10(value) - low) / (high - low) * _N_LEVELS))


def _colour(level: int) -> str:
    at = level / (_N_LEVELS - 1) * (len(_SCALE) - 1)
    k = min(int(at), len(_SCALE) - 2)
    mixed = (round(a + (b - a) * (at - k)) for a, b in zip(_SCALE[k], _SCALE[k + 1]))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else "…" + name[1 - _LABEL :]


def _summary(layers: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """Say where the largest value of the last column is, and which layers are not finite: a picture in words."""
    last = [(row[-1], name) for name, row in zip(layers, values) if row and row[-1] is not None]
    bad = [clean(name) for value, name in last if value is not None and not math.isfinite(value)]
    finite = [(value, name) for value, name in last if value is not None and math.isfinite(value)]
    parts = []
    if finite:
        value, name = max(finite)
        parts.append(f"at the last step largest in {clean(name)}: {short_number(value)}")
    if bad:
        parts.append(f"not finite in {', '.join(bad[:4])}" + (f" and {len(bad) - 4} more" if len(bad) > 4 else ""))
    return "; ".join(parts)
