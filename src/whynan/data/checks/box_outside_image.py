"""box-outside-image: a box that has no point in common with its image."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations, number
from whynan.data.catalogue import Check
from whynan.data.finding import Finding
from whynan.data.options import Options


def is_sized(thing: Annotations) -> Any:
    """Return which rows have a box of positive size and an image of known size."""
    boxes = thing.boxes
    positive = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
    return thing.has_box & positive & (thing.size > 0).all(axis=1) & np.isfinite(boxes).all(axis=1)


def is_outside(thing: Annotations) -> Any:
    boxes, size = thing.boxes, thing.size
    beyond = (boxes[:, 0] >= size[:, 0]) | (boxes[:, 1] >= size[:, 1]) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
    # A box without size at the very border is box-zero-size, and not outside.
    touching = (boxes[:, 0] <= size[:, 0]) & (boxes[:, 1] <= size[:, 1]) & (boxes[:, 2] >= 0) & (boxes[:, 3] >= 0)
    empty = (boxes[:, 2] == boxes[:, 0]) | (boxes[:, 3] == boxes[:, 1])
    return is_sized(thing) & beyond & ~(touching & empty)


class BoxOutsideImage(Check):
    """Nothing of the object is in the image. A loader that clips boxes to the image makes a box without size of it, and
    log(0) of that; a random crop does the same."""

    slug = "box-outside-image"
    title = "box entirely outside of its image"
    severity = "error"
    cause = "degenerate-box"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations, options: Options) -> Iterator[Finding]:
        for row, file, index, look in thing.places(is_outside(thing)):
            width, height = thing.size[row]
            message = f"box ({thing.text(row)}) lies outside of its image of {number(width)} x {number(height)} px"
            yield self.finding(file, thing.text(row), message, index, **look)
