from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook, find_cells


class TargetInf(Check):
    """A regression loss of an infinite target is infinite, and its gradient NaN or infinite."""

    title = "infinity in a target"
    severity = "error"
    cause = "bad-target-values"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        if thing.measure.is_target:
            yield from find_cells(self, thing, lambda kind: kind != "nan")
