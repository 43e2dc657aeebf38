from whynan.data.finding import Check


class FolderUnreadable(Check):
    """What lies in it was not checked, and the loader will not read it either."""

    title = "folder that cannot be read"
    severity = "error"
