from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook, find_cells


class ValueNan(Check):
    """One NaN in the input makes every activation behind it NaN, then the loss, then all weights: one row is enough."""

    title = "NaN in an input"
    severity = "error"
    cause = "bad-input-values"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        if not thing.measure.is_target:
            yield from find_cells(self, thing, lambda kind: kind == "nan")
