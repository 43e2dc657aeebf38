"""folder-unreadable: folder that cannot be read."""

from whynan.data.finding import Check


class FolderUnreadable(Check):
    """What lies in it was not checked, and the loader will not read it either."""

    slug = "folder-unreadable"
    title = "folder that cannot be read"
    severity = "error"
