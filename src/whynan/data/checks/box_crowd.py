"""box-crowd: annotations that stand for many objects at once."""

from collections.abc import Iterator

from whynan.data.finding import Check, Finding
from whynan.data.options import Options
from whynan.data.units import Overview


class BoxCrowd(Check):
    """A crowd box covers many objects and must not be learned as one; loaders drop it, and an image of crowds alone has
    an empty target then."""

    slug = "box-crowd"
    title = "crowd annotations"
    severity = "note"
    cause = "empty-target"
    subject = "set"

    def find(self, thing: Overview, options: Options) -> Iterator[Finding]:
        for part in thing.parts:
            if part.n_crowd:
                message = f"{part.n_crowd} annotations are crowds (iscrowd=1): leave them out of the targets"
                yield self.finding(part.file, part.n_crowd, message)
