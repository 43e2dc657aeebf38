from whynan.data.finding import Check


class ConfigUnreadable(Check):
    """Without it the classes are not known: labels were not held against them."""

    title = "configuration that cannot be read"
    severity = "error"
