"""Pictures of a report as the page shows them: the image's bytes in the page, the boxes as shapes over it."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whynan.records.op import from_jsonable
from whynan.report.words import clean

_NAMES = {"target": "target box", "proposal": "proposed box", "anomaly": "anomaly"}


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
