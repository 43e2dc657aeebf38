from whynan.data.finding import Check


class ImageMissing(Check):
    """The loader raises an exception when it comes to this sample, in the middle of an epoch. Label files of YOLO are
    only ignored."""

    title = "annotation without its image"
    severity = "error"
    cause = "bad-input-values"
