from whynan.data.finding import Check


class ShardUnreadable(Check):
    """The loader raises an exception when it comes to this place, and the samples behind it are never seen."""

    title = "shard that cannot be read to its end"
    severity = "error"
    cause = "bad-input-values"
