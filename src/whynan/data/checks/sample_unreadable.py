from whynan.data.finding import Check


class SampleUnreadable(Check):
    """The training stops when it comes to this sample, possibly in the middle of the night."""

    title = "sample that cannot be loaded"
    severity = "error"
    cause = "bad-input-values"
