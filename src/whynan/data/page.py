"""A result as a page, with thumbnails of what it speaks of."""

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from whynan.data.finding import SEVERITIES, Finding, Severity, all_checks, need
from whynan.data.parts import extension_of
from whynan.data.readers import images
from whynan.data.result import Result, write_whole
from whynan.data.storage import Storage, locate
from whynan.data.terminal import closing, headline, lines
from whynan.report.words import clean

SIDE = 240
"""Pixels of the longer side."""
_MARK = 9
_RED = (226, 54, 54)
_COLOURS = [
    (66, 133, 244),
    (52, 168, 83),
    (251, 188, 4),
    (171, 71, 188),
    (0, 172, 193),
    (255, 112, 67),
    (158, 157, 36),
    (92, 107, 192),
]
"""Classes of a mask, by turns; red is for what a finding is about."""


def picture(storage: Storage, finding: Finding, classes: Sequence[int] | None = None) -> str | None:
    """Return a picture as a data: URL; None where the image cannot be shown."""
    if finding.image is None:
        return None
    try:
        with storage.open(finding.image) as file, images.open_image(file) as image:
            if image.width * image.height > images.MOST_PIXELS:
                return None
            size = image.size
            image.draft("RGB", (SIDE, SIDE))
            small = _to_rgb(image)
            scale = SIDE / max(size)
            small = small.resize((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
            if finding.check.startswith("mask-") or finding.check == "size-mismatch":
                small = _lay_mask(storage, finding.file, small, classes)
            if finding.box is not None:
                _draw_box(small, finding.box, scale)
    except Exception:  # a picture less; the finding itself is there
        return None
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _to_rgb(image: Any) -> Any:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
        span = float(np.ptp(values)) or 1.0
        module = images.load()
        return module.fromarray(((values - values.min()) / span * 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _draw_box(small: Any, box: Sequence[float], scale: float) -> None:
    """Draw the box; one without size, or beyond the border, gets a cross at the nearest place that can be seen."""
    draw = need("PIL.ImageDraw", "data", "drawing").Draw(small)
    x1, y1, x2, y2 = (side * scale for side in box)
    left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    inside = (
        _within(left, small.width),
        _within(top, small.height),
        _within(right, small.width),
        _within(bottom, small.height),
    )
    if inside[2] - inside[0] >= 1 and inside[3] - inside[1] >= 1:
        draw.rectangle(inside, outline=_RED, width=2)
    if right - left < _MARK or bottom - top < _MARK or inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
        x, y = (inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2
        draw.ellipse((x - _MARK, y - _MARK, x + _MARK, y + _MARK), outline=_RED, width=2)


def _within(value: float, end: int) -> float:
    return min(max(value, 0.0), end - 1.0) if math.isfinite(value) else 0.0


def _lay_mask(storage: Storage, name: str, small: Any, classes: Sequence[int] | None) -> Any:
    module = images.load()
    if extension_of(name) == "npy":
        with storage.open(name) as file:
            mask = module.fromarray(np.squeeze(images.open_npy(file).read_all()).astype(np.uint8))
    else:
        with storage.open(name) as file, images.open_image(file) as opened:
            if opened.mode not in ("L", "P", "1"):
                return small
            mask = module.fromarray(np.asarray(opened).astype(np.uint8))
    values = np.asarray(mask.resize(small.size, module.Resampling.NEAREST))
    colours = np.array([_COLOURS[value % len(_COLOURS)] for value in range(256)], dtype=np.float64)
    pixels = np.asarray(small).astype(np.float64) * 0.5 + colours[values] * 0.5
    if classes is not None:
        pixels[~np.isin(values, list(classes))] = _RED
    return module.fromarray(pixels.astype(np.uint8))


PICTURES = 12
"""Pictures of each kind of finding."""
ROWS = 200
"""Findings of each kind in the table; the JSON has all."""


@dataclass(frozen=True)
class Row:
    place: str
    value: str
    message: str
    picture: str | None


@dataclass(frozen=True)
class Section:
    severity: Severity
    slug: str
    title: str
    why: str
    cause: str | None
    n: int
    rows: tuple[Row, ...]
    n_hidden: int


def save_page(result: Result, place: Path) -> None:
    """Write the page. Raises OutputError."""
    write_whole(place, render(result))


def render(result: Result) -> str:
    storage, _ = locate(result.path)
    return _template().render(
        title=clean(result.path),
        headline=clean(headline(result)),
        lines=[(name, clean(text)) for name, text in lines(result)],
        closing=clean(closing(result, is_all=True)).strip(),
        is_clean=result.is_clean,
        counts=[(severity, result.found.count(severity)) for severity in SEVERITIES],
        sections=list(_sections(result, storage)),
        plots=list(plots(result)),
        width=WIDTH,
    )


def _sections(result: Result, storage: Storage) -> Sequence[Section]:
    checks = all_checks()
    made = []
    for severity, slug, n, found in result.found.groups():
        check = checks[slug]
        rows = tuple(_row(result, storage, finding, k) for k, finding in enumerate(found[:ROWS]))
        made.append(Section(severity, slug, check.title, check.why, check.cause, n, rows, n - len(rows)))
    return made


def _row(result: Result, storage: Storage, finding: Finding, place: int) -> Row:
    where = finding.file if finding.annotation is None else f"{finding.file} #{finding.annotation}"
    shown = picture(storage, finding, _known(result, finding)) if place < PICTURES else None
    return Row(clean(where), clean(finding.value), clean(finding.message), shown)


def _known(result: Result, finding: Finding) -> list[int] | None:
    """Return the values that a mask may hold, so that all others are drawn in red."""
    if finding.check != "mask-value-out-of-range":
        return None
    for part in result.parts:
        if part.format == "masks" and part.declared and (part.file == "." or finding.file.startswith(f"{part.file}/")):
            ignored = [] if part.ignore_index is None else [part.ignore_index]
            return [*part.declared, *ignored]
    return None


@cache
def _template() -> Template:
    # Colours and type are those of a report.
    folders = ChoiceLoader([PackageLoader("whynan.data"), PackageLoader("whynan.report")])
    environment = Environment(
        loader=folders, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("data.html")


WIDTH, HEIGHT = 680, 150
MOST_BARS = 40
_LEFT, _BOTTOM = 8, 34
_ROW = 18


@dataclass(frozen=True)
class Bar:
    """A bar with its label and what a pointer over it says."""

    x: float
    y: float
    width: float
    height: float
    label: str
    text: str


@dataclass(frozen=True)
class Plot:
    """A distribution: `is_lying` bars go to the right, with their labels before them."""

    title: str
    bars: tuple[Bar, ...]
    is_lying: bool
    height: float
    note: str = ""


def plots(result: Result) -> Iterator[Plot]:
    statistics = result.statistics
    if len(statistics.classes) > 1:
        yield lying(f"classes ({statistics.counted_in})", statistics.classes.most_common())
    if len(statistics.box_sizes) > 1:
        low, high = min(statistics.box_sizes), max(statistics.box_sizes)
        sizes = [(f"{2.0**size:g}", statistics.box_sizes[size]) for size in range(low, high + 1)]
        yield standing("box size: sqrt(area) in pixels, from", sizes)
    if len(statistics.box_aspects) > 1:
        low, high = min(statistics.box_aspects), max(statistics.box_aspects)
        shapes = [(_ratio(shape), statistics.box_aspects[shape]) for shape in range(low, high + 1)]
        yield standing("box shape: width to height, about", shapes)
    if len(statistics.per_image) > 1:
        yield standing("annotations in an image", _grouped(statistics.per_image))
    if len(statistics.sizes) > 1:
        yield lying("image sizes", [(f"{w} x {h}", n) for (w, h), n in statistics.sizes.most_common()])
    if len(statistics.modes) > 1:
        yield lying("image modes", statistics.modes.most_common())


def _ratio(shape: int) -> str:
    return f"{2**shape}:1" if shape >= 0 else f"1:{2**-shape}"


def _grouped(counts: Counter[int]) -> list[tuple[str, int]]:
    low, high = min(counts), max(counts)
    step = max(1, -(-(high - low + 1) // MOST_BARS))
    return [
        (str(start) if step == 1 else f"{start}+", sum(counts[n] for n in range(start, start + step)))
        for start in range(low, high + 1, step)
    ]


def lying(title: str, values: list[tuple[str, int]]) -> Plot:
    """Return bars that lie one below the other: for names."""
    shown = values[:MOST_BARS]
    largest, total = max(n for _, n in shown), sum(n for _, n in values)
    room = WIDTH - 330
    bars = tuple(
        Bar(
            220,
            k * _ROW,
            max(1.0, round(n / largest * room, 1)),
            _ROW - 4,
            clean(name)[:34],
            f"{n:,} ({n / total:.1%})",
        )
        for k, (name, n) in enumerate(shown)
    )
    note = f"and {len(values) - len(shown)} more" if len(values) > len(shown) else ""
    return Plot(title, bars, True, len(shown) * _ROW, note)


def standing(title: str, values: Iterable[tuple[str, int]]) -> Plot:
    """Return bars that stand side by side: for a scale."""
    shown = list(values)
    largest = max(n for _, n in shown)
    step = (WIDTH - _LEFT) / len(shown)
    bars = []
    for k, (label, n) in enumerate(shown):
        height = round(n / largest * (HEIGHT - _BOTTOM - 14), 1) if n else 0.0
        height = max(height, 1.0) if n else 0.0
        place = round(_LEFT + k * step, 1)
        # Labels of narrow bars would lie on each other.
        name = label if len(shown) <= 20 or k % -(-len(shown) // 20) == 0 else ""
        bars.append(Bar(place, HEIGHT - _BOTTOM - height, round(step * 0.86, 1), height, name, f"{label}: {n:,}"))
    return Plot(title, tuple(bars), False, HEIGHT)
