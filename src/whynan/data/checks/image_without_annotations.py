from whynan.data.finding import Check


class ImageWithoutAnnotations(Check):
    """A batch of such images alone has no target: a mean over its boxes or positive anchors is 0 / 0."""

    title = "image without any object"
    severity = "note"
    cause = "empty-target"
