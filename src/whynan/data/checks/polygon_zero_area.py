from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Found


class PolygonZeroArea(Check):
    """All points lie on one line, or the ring crosses itself so that its parts cancel: rasterised, nothing of it is
    left, and a mask loss has an empty target."""

    title = "polygon without area"
    severity = "warning"
    cause = "empty-target"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
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
