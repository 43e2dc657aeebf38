from whynan.data.finding import Check, Found, Options, Severity, report
from whynan.data.units import ArrayLook

IGNORED = (-1, -100)
"""Usual values for "no label"; PyTorch's cross-entropy ignores -100."""


class TargetUnlabelled(Check):
    """Samples whose label is the ignore index add nothing to the loss; in a batch of them alone the mean is 0 / 0."""

    title = "targets that are ignored"
    severity = "note"
    cause = "empty-target"
    subject = "array"

    def find_with(self, thing: ArrayLook, options: Options) -> Found:
        labels = thing.measure.labels
        if not labels or (thing.measure.is_image_like and thing.classes is None):
            return
        for value, n in sorted(labels.items()):
            if value == options.ignore_index or (value in IGNORED and options.ignore_index is None):
                yield self.finding(thing.file, value, f"{n} of {sum(labels.values())} targets are {value}: ignored")
            elif thing.classes is not None and not 0 <= value < thing.classes:
                yield from self._outside(thing, value, n, f"outside of 0..{thing.classes - 1}", "error")
            elif value < 0 and thing.classes is None and len(labels) <= 1000:
                yield from self._outside(thing, value, n, "as a class index it is out of range", "warning")

    def _outside(self, thing: ArrayLook, value: int, n: int, what: str, severity: Severity) -> Found:
        rows = thing.measure.label_rows.get(value, [])
        column = f" of {thing.measure.names[0]}" if thing.measure.names else ""
        for row in rows:
            message = f"row {row}: label {value}{column}, {what}"
            yield report("label-out-of-range", thing.file, value, message, row, severity)
        if n > len(rows):
            more = "more " if rows else ""
            message = f"{n - len(rows)} {more}targets{column} are {value}, {what}"
            yield report("label-out-of-range", thing.file, value, message, severity=severity)
