"""config-unreadable: configuration that cannot be read."""

from whynan.data.finding import Check


class ConfigUnreadable(Check):
    """Without it the classes are not known: labels were not held against them."""

    slug = "config-unreadable"
    title = "configuration that cannot be read"
    severity = "error"
