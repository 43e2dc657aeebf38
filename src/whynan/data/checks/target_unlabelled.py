"""target-unlabelled: integer targets that are ignored; those that are no class index are label-out-of-range."""

from collections.abc import Iterator

from whynan.data.catalogue import Check, report
from whynan.data.finding import Finding
from whynan.data.looks import ArrayLook
from whynan.data.options import Options



IGNORED = (-1, -100)
"""Usual values for "no label"; PyTorch's cross-entropy ignores -100."""


class TargetUnlabelled(Check):
    """Samples whose label is the ignore index add nothing to the loss; in a batch of them alone the mean is 0 / 0."""

    slug = "target-unlabelled"
    title = "targets that are ignored"
    severity = "note"
    cause = "empty-target"
    subject = "array"

    def find(self, thing: ArrayLook, options: Options) -> Iterator[Finding]:
        labels = thing.measure.labels
        if not labels or thing.measure.is_image_like and thing.classes is None:
            return
        for value, n in sorted(labels.items()):
            if value == options.ignore_index or (value in IGNORED and options.ignore_index is None):
                yield self.finding(thing.file, value, f"{n} of {sum(labels.values())} targets are {value}: ignored")
            elif thing.classes is not None and not 0 <= value < thing.classes:
                message = f"{n} targets are {value}, outside of 0..{thing.classes - 1}"
                yield report("label-out-of-range", thing.file, value, message)
            elif value < 0 and thing.classes is None and len(labels) <= 1000:
                message = f"{n} targets are {value}: as a class index it is out of range"
                yield report("label-out-of-range", thing.file, value, message, severity="warning")
