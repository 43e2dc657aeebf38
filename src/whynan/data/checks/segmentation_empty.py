import numpy as np

from whynan.data.annotations import EMPTY, POLYGON, RLE, Annotations
from whynan.data.finding import Check, Found


class SegmentationEmpty(Check):
    """The mask target is empty: a mask loss averages over nothing, and a dice loss without smoothing divides 0 by 0.
    A set in which no annotation at all has a segmentation is a set of boxes, and that is a note."""

    title = "empty segmentation"
    severity = "error"
    cause = "empty-target"
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        if thing.segmentation is None:
            return
        for number, file in enumerate(thing.files):
            empty = (thing.segmentation == EMPTY) & (thing.file == number)
            if not empty.any():
                continue
            filled = np.isin(thing.segmentation, (POLYGON, RLE)) & (thing.file == number)
            if not filled.any():
                message = f"all {int(empty.sum())} segmentations are empty: a set of boxes, of no use to a mask head"
                yield self.finding(file, "[]", message, severity="note")
                continue
            for _, name, index, look in thing.places(empty):
                message = "segmentation is empty, while other annotations of this file have one"
                yield self.finding(name, "[]", message, index, **look)
