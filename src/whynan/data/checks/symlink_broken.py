from whynan.data.finding import Check


class SymlinkBroken(Check):
    """The loader finds the name and cannot open the file: it stops in the middle of an epoch."""

    title = "symbolic link that leads nowhere"
    severity = "error"
    cause = "bad-input-values"
