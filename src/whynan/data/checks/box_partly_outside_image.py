from whynan.data.annotations import Annotations, number
from whynan.data.finding import Check, Found, Options, Severity

SLIGHT = 2.0
"""Pixels. Less than that is rounding or another convention of where a pixel begins: a note."""


class BoxPartlyOutsideImage(Check):
    """Coordinates beyond 1 after normalisation break losses that take log or sqrt of them or of 1 - x, and augmentation
    libraries refuse such boxes; otherwise the regression target is a little wrong."""

    title = "box standing out of its image"
    severity = "warning"
    cause = "degenerate-box"
    fixable = True
    subject = "annotations"

    def find_with(self, thing: Annotations, options: Options) -> Found:
        over = thing.overhang
        bad = thing.is_sized & ~thing.is_outside & (over > options.tolerance)
        for row, file, index, look in thing.places(bad):
            width, height = thing.size[row]
            message = (
                f"box ({thing.text(row)}) stands {number(over[row])} px out of its image of "
                f"{number(width)} x {number(height)} px"
            )
            severity: Severity = "note" if over[row] <= SLIGHT else "warning"
            yield self.finding(file, f"{number(over[row])} px", message, index, severity=severity, **look)
