from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Found


class PolygonTooShort(Check):
    """Fewer than three points enclose nothing: the mask is empty, or the rasteriser raises an exception."""

    title = "polygon of fewer than 3 points"
    severity = "error"
    cause = "empty-target"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        if thing.polygons is None:
            return
        for k in (thing.polygons.points < 3).nonzero()[0].tolist():
            row, n = int(thing.polygons.owner[k]), int(thing.polygons.points[k])
            file, index = thing.where(row)
            message = f"polygon of {n} point{'' if n == 1 else 's'}; it takes 3 to enclose anything"
            yield self.finding(file, f"{n} points", message, index, image=thing.image_name(row), box=thing.pixels(row))
