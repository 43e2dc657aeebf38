from whynan.data.finding import Check, Found
from whynan.data.units import Overview


class LabelIdsNotContiguous(Check):
    """Used as indices as they are, such ids reach beyond the number of classes: the usual label out of range of
    COCO's 80 classes, whose ids go to 90. A loader must map them to 0..C-1."""

    title = "class ids with gaps"
    severity = "note"
    cause = "label-out-of-range"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        for part in thing.parts:
            ids = sorted(part.declared or {})
            if part.format not in ("coco", "yolo", "masks") or len(ids) < 2 or ids[-1] - ids[0] + 1 == len(ids):
                continue
            message = f"{len(ids)} classes have ids from {ids[0]} to {ids[-1]}: map them to 0..{len(ids) - 1}"
            yield self.finding(part.file, f"{ids[0]}..{ids[-1]}", message)
