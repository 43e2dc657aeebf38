"""sample-unreadable: a sample whose loading raises an exception."""

from whynan.data.finding import Check


class SampleUnreadable(Check):
    """The training stops when it comes to this sample, possibly in the middle of the night."""

    slug = "sample-unreadable"
    title = "sample that cannot be loaded"
    severity = "error"
    cause = "bad-input-values"
