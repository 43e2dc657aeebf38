from whynan.data.finding import Check


class AnnotationFileEmpty(Check):
    """For label files of YOLO it is how a background image is written, or a slip of the export. A batch of such images
    alone has no target, and a mean over its boxes is 0 / 0."""

    title = "annotation file without content"
    severity = "note"
    cause = "empty-target"
