from whynan.data.finding import Check


class SymlinkLoop(Check):
    """A loader that follows links never ends, or stops with "too many levels of symbolic links"."""

    title = "symbolic link that goes in a circle"
    severity = "warning"
