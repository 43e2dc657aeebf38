"""value-inf: infinity in an input."""

from collections.abc import Iterator

from whynan.data.finding import Check, Finding
from whynan.data.options import Options
from whynan.data.units import ArrayLook, find_cells


class ValueInf(Check):
    """An infinity becomes NaN at the first difference, normalisation or softmax, and the loss with it."""

    slug = "value-inf"
    title = "infinity in an input"
    severity = "error"
    cause = "bad-input-values"
    subject = "array"

    def find(self, thing: ArrayLook, options: Options) -> Iterator[Finding]:
        if not thing.measure.is_target:
            yield from find_cells(self, thing, lambda kind: kind != "nan")
