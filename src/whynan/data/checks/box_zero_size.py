from whynan.data.annotations import Annotations, number
from whynan.data.finding import Check, Found


class BoxZeroSize(Check):
    """Box regression takes log(width / anchor width) and IoU divides by areas: a box without width or height makes both
    infinite or NaN, and detectors that check their targets stop."""

    title = "box without width or height"
    severity = "error"
    cause = "degenerate-box"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        width, height = thing.sides[:, 0], thing.sides[:, 1]
        bad = thing.has_box & ((width == 0) & (height >= 0) | (height == 0) & (width >= 0))
        for row, file, index, look in thing.places(bad):
            raw = thing.raw[row]
            sides = [name for name, side in (("width", width[row]), ("height", height[row])) if side == 0]
            if thing.layout == "xyxy":
                equal = [f"{axis}min={axis}max={number(raw[k])}" for k, axis in enumerate("xy") if raw[k] == raw[k + 2]]
            else:
                equal = [f"{name}=0" for k, name in ((2, "w"), (3, "h")) if raw[k] == 0]
            message = f"box ({thing.text(row)}) has no {' and no '.join(sides)}"
            yield self.finding(file, ", ".join(equal) or thing.text(row), message, index, **look)
