"""polygon-zero-area: a polygon whose points lie on one line."""

from collections.abc import Iterator

from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Finding
from whynan.data.options import Options


class PolygonZeroArea(Check):
    """All points lie on one line, or the ring crosses itself so that its parts cancel: rasterised, nothing of it is
    left, and a mask loss has an empty target."""

    slug = "polygon-zero-area"
    title = "polygon without area"
    severity = "warning"
    cause = "empty-target"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations, options: Options) -> Iterator[Finding]:
        if thing.polygons is None:
            return
        bad = (thing.polygons.points >= 3) & ~(thing.polygons.area > 1e-9)
        for k in bad.nonzero()[0].tolist():
            row = int(thing.polygons.owner[k])
            file, index = thing.where(row)
            message = f"polygon of {int(thing.polygons.points[k])} points has no area"
            yield self.finding(
                file,
                f"{float(thing.polygons.area[k]):.3g}",
                message,
                index,
                image=thing.image_name(row),
                box=thing.pixels(row),
            )
