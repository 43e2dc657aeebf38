from whynan.data.finding import Check, Found
from whynan.data.units import MaskLook


class MaskConstant(Check):
    """Losses over the classes that are present (dice, Lovasz) divide by the size of what is absent; with background
    alone a dice loss without smoothing is 0 / 0."""

    title = "mask of a single class"
    severity = "note"
    cause = "empty-target"
    subject = "mask"

    def find(self, thing: MaskLook) -> Found:
        values = thing.facts.get("values")
        if not values or len(set(values) - {thing.ignore_index}) != 1:
            return
        (value,) = set(values) - {thing.ignore_index}
        name = (thing.classes or {}).get(value)
        label = f"{value} ({name})" if name else str(value)
        yield self.finding(thing.file, label, f"every pixel that counts has class {label}", image=thing.image)
