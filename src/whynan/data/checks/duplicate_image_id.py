from whynan.data.finding import Check


class DuplicateImageId(Check):
    """A loader keeps the last of the images: annotations of the first one are drawn on another picture, with boxes
    outside of it."""

    title = "image id used twice"
    severity = "error"
    cause = "degenerate-box"
