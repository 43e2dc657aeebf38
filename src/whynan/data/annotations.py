"""A table of annotations: many of them in columns, whatever the format they come from, so that checks are array
code."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

Layout = Literal["xyxy", "xywh", "cxcywh"]
"""How a box is written: two corners (VOC), corner and size (COCO), centre and size relative to the image (YOLO)."""

ABSENT, EMPTY, POLYGON, RLE = range(4)
"""What an annotation has for a segmentation."""
BOX_LINE, POLYGON_LINE = 0, 1


@dataclass
class Polygons:
    """Rings of points; an annotation may own several. Areas in square pixels, by the shoelace formula."""

    owner: Any
    """i64[m], row of the annotation."""
    points: Any
    """i64[m], number of points."""
    area: Any
    """f64[m]."""


@dataclass
class Keypoints:
    """Labelled keypoints: row of the annotation, x, y in pixels."""

    owner: Any
    xy: Any


@dataclass
class Annotations:
    """n annotations of one format. Unknown numbers are NaN, unknown indices -1."""

    layout: Layout
    files: Sequence[str]
    """Annotation files."""
    images: Sequence[str]
    file: Any
    """i64[n], into `files`."""
    number: Any
    """i64[n], 0-based index of the annotation in its file."""
    image: Any
    """i64[n], into `images`; -1 where the annotation has none."""
    size: Any
    """f64[n, 2], width and height of the image in pixels."""
    raw: Any
    """f64[n, 4], the box as it is written."""
    boxes: Any
    """f64[n, 4], the box as x1, y1, x2, y2 in pixels."""
    has_box: Any
    """bool[n]."""
    label: Any
    """i64[n], class index or id; -1 where it is missing."""
    crowd: Any
    """bool[n]."""
    line_kind: Any = None
    """i64[n], BOX_LINE or POLYGON_LINE, where each annotation is a line of text."""
    polygons: Polygons | None = None
    segmentation: Any = None
    """i64[n], what kind of segmentation; None where the format has none."""
    area: Any = None
    """f64[n], the area as written; None where the format has none."""
    ids: Any = None
    """i64[n], ids of the annotations, equal numbers for equal ids; None where the format has none."""
    id_text: dict[int, str] = field(default_factory=dict)
    """Ids that are no integers, by the number that stands for them."""
    keypoints: Keypoints | None = None

    def __len__(self) -> int:
        return len(self.number)

    @cached_property
    def sides(self) -> Any:
        """f64[n, 2], width and height of the boxes."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @cached_property
    def is_sized(self) -> Any:
        """bool[n], boxes that are finite, of no negative side, in an image of known size."""
        boxes, sides, size = self.boxes, self.sides, self.size
        positive = (sides[:, 0] >= 0) & (sides[:, 1] >= 0) & (size[:, 0] > 0) & (size[:, 1] > 0)
        return self.has_box & positive & np.isfinite(boxes[:, 0] + boxes[:, 1] + boxes[:, 2] + boxes[:, 3])

    @cached_property
    def is_outside(self) -> Any:
        """bool[n], boxes of known size that share no point with their image."""
        x1, y1, x2, y2 = (self.boxes[:, k] for k in range(4))
        width, height = self.size[:, 0], self.size[:, 1]
        beyond = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
        # A box without size at the very border is box-zero-size, and not outside.
        touching = (x1 <= width) & (y1 <= height) & (x2 >= 0) & (y2 >= 0) & ((x1 == x2) | (y1 == y2))
        return self.is_sized & beyond & ~touching

    @cached_property
    def overhang(self) -> Any:
        """f64[n], by how many pixels each box stands out of its image; 0 or less where it does not."""
        low = np.maximum(-self.boxes[:, 0], -self.boxes[:, 1])
        high = np.maximum(self.boxes[:, 2] - self.size[:, 0], self.boxes[:, 3] - self.size[:, 1])
        return np.maximum(low, high)

    @cached_property
    def is_finite(self) -> Any:
        """bool[n], boxes that are written with finite numbers."""
        raw = self.raw
        return np.isfinite(raw[:, 0]) & np.isfinite(raw[:, 1]) & np.isfinite(raw[:, 2]) & np.isfinite(raw[:, 3])

    def where(self, row: int) -> tuple[str, int]:
        return self.files[int(self.file[row])], int(self.number[row])

    def image_name(self, row: int) -> str | None:
        image = int(self.image[row])
        return self.images[image] if image >= 0 else None

    def pixels(self, row: int) -> tuple[float, float, float, float] | None:
        """Return the box in pixels, None where it is not finite."""
        x1, y1, x2, y2 = (float(side) for side in self.boxes[row])
        return (x1, y1, x2, y2) if bool(np.isfinite(self.boxes[row]).all()) else None

    def text(self, row: int) -> str:
        names = {
            "xyxy": ("xmin", "ymin", "xmax", "ymax"),
            "xywh": ("x", "y", "w", "h"),
            "cxcywh": ("cx", "cy", "w", "h"),
        }
        return " ".join(f"{name}={number(side)}" for name, side in zip(names[self.layout], self.raw[row]))

    def places(self, rows: Any) -> Iterator[tuple[int, str, int, dict[str, Any]]]:
        """Yield (row, file, index in the file, what a finding says about the picture) for a mask of rows."""
        for row in np.flatnonzero(rows).tolist():
            file, index = self.where(row)
            yield row, file, index, {"image": self.image_name(row), "box": self.pixels(row)}


def number(value: float) -> str:
    """Return a number as a person would write it: 412 and not 412.0."""
    return f"{value:.6g}"


def shoelace(flat: Any, lengths: Any) -> Any:
    """Return the areas f64[m] of rings whose points (x, y) stand one after the other in `flat`, f64[sum, 2]."""
    if not len(lengths):
        return np.zeros(0)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    following = np.arange(1, len(flat) + 1)
    full = lengths > 0
    following[(starts + lengths - 1)[full]] = starts[full]  # the last point is followed by the first of its ring
    # Relative to each ring's first point: far from the origin the products would lose the digits that matter.
    centred = flat - np.repeat(flat[starts[full]], lengths[full], axis=0)
    cross = centred[:, 0] * centred[following, 1] - centred[following, 0] * centred[:, 1]
    areas = np.zeros(len(lengths))
    areas[full] = np.abs(np.add.reduceat(cross, starts[full])) / 2
    return areas
