from whynan.data.finding import Check, Found
from whynan.data.units import Overview


class BoxCrowd(Check):
    """A crowd box covers many objects and must not be learned as one; loaders drop it, and an image of crowds alone has
    an empty target then."""

    title = "crowd annotations"
    severity = "note"
    cause = "empty-target"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        for part in thing.parts:
            if part.n_crowd:
                message = f"{part.n_crowd} annotations are crowds (iscrowd=1): leave them out of the targets"
                yield self.finding(part.file, part.n_crowd, message)
