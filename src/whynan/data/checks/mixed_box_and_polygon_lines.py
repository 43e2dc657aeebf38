import numpy as np

from whynan.data.annotations import BOX_LINE, POLYGON_LINE, Annotations
from whynan.data.finding import Check, Found


class MixedBoxAndPolygonLines(Check):
    """A loader reads a file either as boxes or as polygons. A line of five numbers among polygons becomes a polygon of
    two points, or makes the loader drop the masks of the whole set."""

    title = "boxes and polygons in one label file"
    severity = "error"
    cause = "empty-target"
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        if thing.line_kind is None or not len(thing):
            return
        n_files = len(thing.files)
        boxes = np.bincount(thing.file[thing.line_kind == BOX_LINE], minlength=n_files)
        polygons = np.bincount(thing.file[thing.line_kind == POLYGON_LINE], minlength=n_files)
        for number in np.flatnonzero((boxes > 0) & (polygons > 0)).tolist():
            rare = BOX_LINE if boxes[number] <= polygons[number] else POLYGON_LINE
            first = int(np.flatnonzero((thing.file == number) & (thing.line_kind == rare))[0])
            value = f"{boxes[number]} box lines, {polygons[number]} polygon lines"
            message = f"{value} in one file: a loader reads it either as boxes or as polygons"
            yield self.finding(
                thing.files[number], value, message, int(thing.number[first]), image=thing.image_name(first)
            )
