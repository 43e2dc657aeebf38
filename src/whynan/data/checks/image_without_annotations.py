"""image-without-annotations: image without any object."""

from whynan.data.finding import Check


class ImageWithoutAnnotations(Check):
    """A batch of such images alone has no target: a mean over its boxes or positive anchors is 0 / 0."""

    slug = "image-without-annotations"
    title = "image without any object"
    severity = "note"
    cause = "empty-target"
