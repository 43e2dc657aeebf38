from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Found


class BoxNonfinite(Check):
    """A coordinate that is NaN or infinite goes into the regression target, and the loss of its batch is NaN."""

    title = "box with a NaN or infinite coordinate"
    severity = "error"
    cause = "bad-target-values"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        for row, file, index, look in thing.places(thing.has_box & ~thing.is_finite):
            yield self.finding(file, thing.text(row), f"box ({thing.text(row)}) is not finite", index, **look)
