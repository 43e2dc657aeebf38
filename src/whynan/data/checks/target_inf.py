"""target-inf: infinity in a target."""

from collections.abc import Iterator

from whynan.data.finding import Check, Finding
from whynan.data.options import Options
from whynan.data.units import ArrayLook, find_cells


class TargetInf(Check):
    """A regression loss of an infinite target is infinite, and its gradient NaN or infinite."""

    slug = "target-inf"
    title = "infinity in a target"
    severity = "error"
    cause = "bad-target-values"
    subject = "array"

    def find(self, thing: ArrayLook, options: Options) -> Iterator[Finding]:
        if thing.measure.is_target:
            yield from find_cells(self, thing, lambda kind: kind != "nan")
