from whynan.data.finding import Check, Found
from whynan.data.units import Overview


class ImageDuplicate(Check):
    """A copy in training and validation makes the validation loss too good; a copy with other labels makes one of the
    two unlearnable. Within a split it only counts twice."""

    title = "identical image files"
    severity = "warning"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        groups: dict[str, list[int]] = {}
        for number, row in enumerate(thing.images):
            digest = thing.digests.get(row.file)
            if digest is not None:
                groups.setdefault(digest, []).append(number)
        for group in groups.values():
            first = thing.images[group[0]]
            for number in group[1:]:
                row = thing.images[number]
                splits = {thing.images[k].split for k in group[: group.index(number)]} - {row.split, None}
                if splits and row.split:
                    other = next(thing.images[k] for k in group if thing.images[k].split in splits)
                    message = f"is the same file as {other.file}: {row.split} and {other.split} share it"
                    yield self.finding(row.file, other.file, message, image=row.file)
                else:
                    message = f"is the same file as {first.file}"
                    yield self.finding(row.file, first.file, message, severity="note", image=row.file)
