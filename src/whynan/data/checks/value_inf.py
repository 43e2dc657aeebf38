from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook, find_cells


class ValueInf(Check):
    """An infinity becomes NaN at the first difference, normalisation or softmax, and the loss with it."""

    title = "infinity in an input"
    severity = "error"
    cause = "bad-input-values"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        if not thing.measure.is_target:
            yield from find_cells(self, thing, lambda kind: kind != "nan")
