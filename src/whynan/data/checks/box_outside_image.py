from whynan.data.annotations import Annotations, number
from whynan.data.finding import Check, Found


class BoxOutsideImage(Check):
    """Nothing of the object is in the image. A loader that clips boxes to the image makes a box without size of it, and
    log(0) of that; a random crop does the same."""

    title = "box entirely outside of its image"
    severity = "error"
    cause = "degenerate-box"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        for row, file, index, look in thing.places(thing.is_outside):
            width, height = thing.size[row]
            message = f"box ({thing.text(row)}) lies outside of its image of {number(width)} x {number(height)} px"
            yield self.finding(file, thing.text(row), message, index, **look)
