"""annotation-unreadable: annotation that cannot be read."""

from whynan.data.finding import Check


class AnnotationUnreadable(Check):
    """The loader stops here, or leaves the object out without a word and the model learns that it is background."""

    slug = "annotation-unreadable"
    title = "annotation that cannot be read"
    severity = "error"
    cause = "bad-target-values"
