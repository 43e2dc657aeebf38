from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook, find_cells


class TargetNan(Check):
    """The loss of every batch that holds this target is NaN, however good the model is."""

    title = "NaN in a target"
    severity = "error"
    cause = "bad-target-values"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        if thing.measure.is_target:
            yield from find_cells(self, thing, lambda kind: kind == "nan")
