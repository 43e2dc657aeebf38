"""Small pictures of what findings are about: the box drawn in, the mask laid over."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whynan.data.extra import need
from whynan.data.finding import Finding
from whynan.data.readers import images
from whynan.data.recognise.parts import extension_of
from whynan.data.storage import Storage

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
        from whynan.data.readers.arrays import open_npy

        with storage.open(name) as file:
            mask = module.fromarray(np.squeeze(open_npy(file).read_all()).astype(np.uint8))
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
