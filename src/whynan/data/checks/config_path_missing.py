from whynan.data.finding import Check


class ConfigPathMissing(Check):
    """A training started with this configuration stops at once; the files were found by themselves here."""

    title = "configuration that names a folder that is not there"
    severity = "note"
