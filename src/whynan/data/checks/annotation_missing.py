from whynan.data.finding import Check


class AnnotationMissing(Check):
    """A loader takes the image for background, or raises an exception: which of the two is for the user to know."""

    title = "image without an annotation file"
    severity = "warning"
    cause = "empty-target"
