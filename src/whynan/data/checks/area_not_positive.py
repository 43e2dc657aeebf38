from whynan.data.annotations import Annotations, number
from whynan.data.finding import Check, Found

ABSENT_AREA = -1e308
"""Stands for an annotation without an area, which is no defect: most formats have none."""


class AreaNotPositive(Check):
    """Keypoint losses and OKS divide by the area; filters by area drop the object without a word."""

    title = "annotation area of zero or less"
    severity = "error"
    cause = "division-by-zero"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        if thing.area is None:
            return
        for row, file, index, look in thing.places(~(thing.area > 0) & (thing.area != ABSENT_AREA)):
            yield self.finding(
                file, number(thing.area[row]), f"area is {number(thing.area[row])}, not positive", index, **look
            )
