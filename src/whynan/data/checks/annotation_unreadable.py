from whynan.data.finding import Check


class AnnotationUnreadable(Check):
    """The loader stops here, or leaves the object out without a word and the model learns that it is background."""

    title = "annotation that cannot be read"
    severity = "error"
    cause = "bad-target-values"
