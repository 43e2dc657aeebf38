from whynan.data.finding import Check


class ArrayUnreadable(Check):
    """The loader raises an exception, or unpickles objects, which can run anything."""

    title = "array or table that cannot be read"
    severity = "error"
    cause = "bad-input-values"
