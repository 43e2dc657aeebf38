from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Found


class BoxNegativeSize(Check):
    """The logarithm of a negative width is NaN, and areas, intersections and IoU come out with the wrong sign."""

    title = "box of negative width or height"
    severity = "error"
    cause = "degenerate-box"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        width, height = thing.sides[:, 0], thing.sides[:, 1]
        for row, file, index, look in thing.places(thing.has_box & ((width < 0) | (height < 0))):
            sides = [name for name, side in (("width", width[row]), ("height", height[row])) if side < 0]
            message = f"box ({thing.text(row)}) has a negative {' and a negative '.join(sides)}"
            yield self.finding(file, thing.text(row), message, index, **look)
