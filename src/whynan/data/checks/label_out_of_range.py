from whynan.data.finding import Check


class LabelOutOfRange(Check):
    """Cross-entropy and one_hot index with the label: outside of 0..C-1 they raise an exception on the CPU, and on a
    GPU they fail an assertion or read foreign memory. In COCO files it is a category_id that no category declares."""

    title = "label outside of the declared classes"
    severity = "error"
    cause = "label-out-of-range"
