from whynan.data.finding import Check


class LabelMissing(Check):
    """There is nothing to compute a classification loss with; a loader raises an exception or takes a default."""

    title = "annotation without a class"
    severity = "error"
    cause = "bad-target-values"
    fixable = True
