"""An incident in pictures: the path from the origin to the symptom, images with boxes, values by layer and step."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whynan.records.op import from_jsonable
from whynan.report.words import clean, short_number

HEAT_WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 190, 12, 6, 24
_ROW = 15
_N_LEVELS = 24
_LABEL = 30
"""Letters of a layer's name that have room; its end says more than its beginning."""

# Five points of the viridis scale (van der Walt, Smith, Firing 2015): even in lightness, fit for colour-blind readers.
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

ROUTE_WIDTH = 430
_BOX, _GAP = 46, 20
_MOST_STOPS = 14
_ENDS = 6
_LETTERS = 50

_NAMES = {"target": "target box", "proposal": "proposed box", "anomaly": "anomaly"}


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
    right: float = HEAT_WIDTH - _RIGHT
    bottom: float = 0.0
    top: float = _TOP


def draw_heat(
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
    width = (HEAT_WIDTH - _LEFT - _RIGHT) / len(steps)
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
        incident=f"M{HEAT_WIDTH - _RIGHT - width:.1f} {_TOP - 2}h{width:.1f}V{bottom + 1}h{-width:.1f}z"
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


@dataclass(frozen=True)
class Stop:
    """One operation; `kind` is "origin", "symptom", "between" or "left-out", `full` the whole text for a pointer."""

    y: float
    kind: str
    phase: str
    title: str
    value: str
    place: str
    full: str


@dataclass(frozen=True)
class Route:
    stops: tuple[Stop, ...]
    height: float
    summary: str
    box: float = _BOX
    gap: float = _GAP


@dataclass(frozen=True)
class Passed:
    op: str
    phase: str
    place: str
    function: str | None
    module: str | None
    value: str


def draw_route(steps: Sequence[Passed], symptom: str, what: str) -> Route | None:
    """Return the picture of a path that ends in `symptom`, a `what` (loss, gradient, ...); None where it is empty."""
    if not steps:
        return None
    shown: list[Passed | int] = list(steps)
    if len(steps) > _MOST_STOPS:
        shown = [*steps[:_ENDS], len(steps) - 2 * _ENDS, *steps[-_ENDS:]]
    stops = []
    for number, step in enumerate(shown):
        y = 2 + number * (_BOX + _GAP)
        if isinstance(step, int):
            stops.append(Stop(y, "left-out", "", f"{step} more operations", "", "all listed below", f"{step} more"))
        else:
            stops.append(_stop(y, "origin" if number == 0 else "between", step))
    y = 2 + len(shown) * (_BOX + _GAP)
    stops.append(Stop(y, "symptom", "", _cut(symptom), "", f"the {what} that you see", symptom))
    names = " to ".join(f"{step.op} at {step.place}" for step in (steps[0], steps[-1]))
    count = f"{len(steps)} operations" if len(steps) > 1 else "one operation"
    return Route(tuple(stops), y + _BOX + 2, f"{count}, from {names}, to {symptom}")


def _stop(y: float, kind: str, step: Passed) -> Stop:
    where = step.place + (f" in {step.function}" if step.function else "")
    full = f"{step.op} {step.value}, {where}" + (f", module {step.module}" if step.module else "")
    return Stop(y, kind, step.phase, _cut(step.op, 34), step.value, _cut_left(where), full)


def _cut_left(text: str, most: int = _LETTERS) -> str:
    """Return a place that fits: its end, the line and the function, says more than the folders."""
    return text if len(text) <= most else "…" + text[1 - most :]


def _cut(text: str, most: int = _LETTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Shape:
    """A box in the picture. One too small to be seen, or outside, gets a ring (`is_ringed`) at `cx`, `cy`."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str
    is_ringed: bool
    cx: float
    cy: float


@dataclass(frozen=True)
class Shown:
    """One picture. `image` and `overlay` are data: URLs; `anomalies` are told in words too."""

    title: str
    width: int
    height: int
    image: str | None
    overlay: str | None
    shapes: tuple[Shape, ...]
    facts: tuple[str, ...]
    anomalies: tuple[str, ...]
    kinds: tuple[tuple[str, str], ...]
    alt: str
    ring: float


def show(picture: Mapping[str, Any], files: Mapping[str, bytes]) -> Shown | None:
    """Return a picture ready for the page; None where there is nothing to see: no image and no box."""
    image, overlay = (_url(files.get(str(picture.get(key) or ""))) for key in ("file", "overlay"))
    # What is wrong lies on top, and the targets on the many proposals.
    boxes = sorted(picture["boxes"], key=lambda box: ("proposal", "target", "anomaly").index(box["kind"]))
    shapes = tuple(_shape(box, picture) for box in boxes)
    if image is None and not shapes:
        return None
    title = clean(picture["title"])
    facts = tuple(clean(fact) for fact in picture.get("facts") or ())
    present = {shape.kind for shape in shapes}
    return Shown(
        title=title,
        width=picture["width"],
        height=picture["height"],
        image=image,
        overlay=overlay,
        shapes=shapes,
        facts=facts,
        anomalies=tuple(shape.title for shape in shapes if shape.kind == "anomaly"),
        kinds=tuple((kind, name) for kind, name in _NAMES.items() if kind in present),
        alt="; ".join((title, *facts)),
        ring=max(picture["width"], picture["height"]) / 40,
    )


def _url(content: bytes | None) -> str | None:
    return None if content is None else "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _shape(box: Mapping[str, Any], picture: Mapping[str, Any]) -> Shape:
    width, height = picture["width"], picture["height"]
    corners = [float(from_jsonable(value)) for value in (*box["box"], 0, 0, 0, 0)[:4]]
    shown = [
        min(max(value, -0.02 * side), 1.02 * side) if math.isfinite(value) else side / 2
        for value, side in zip(corners, (width, height, width, height))
    ]
    left, right = sorted((shown[0], shown[2]))
    top, bottom = sorted((shown[1], shown[3]))
    is_small = right - left < width / 100 or bottom - top < height / 100
    label = clean(box.get("label") or "box")
    places = ", ".join(
        f"{value:.4g}" if math.isfinite(value) else clean(raw) for value, raw in zip(corners, box["box"])
    )
    note = f": {clean(box['note'])}" if box.get("note") else ""
    return Shape(
        clean(box["kind"]),
        round(left, 2),
        round(top, 2),
        round(right - left, 2),
        round(bottom - top, 2),
        f"{label} [{places}]{note}",
        is_small and box["kind"] != "proposal",
        round((left + right) / 2, 2),
        round((top + bottom) / 2, 2),
    )
