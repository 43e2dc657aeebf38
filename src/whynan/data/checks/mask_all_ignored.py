from whynan.data.finding import Check, Found
from whynan.data.units import MaskLook


class MaskAllIgnored(Check):
    """The mean over the pixels that count is 0 / 0, NaN, in a batch of such masks alone, and for every loss that is
    averaged image by image."""

    title = "mask that is ignored everywhere"
    severity = "error"
    cause = "empty-target"
    subject = "mask"

    def find(self, thing: MaskLook) -> Found:
        values = thing.facts.get("values")
        if values and thing.ignore_index is not None and set(values) == {thing.ignore_index}:
            n = values[thing.ignore_index]
            message = f"all {n} pixels have the ignore index {thing.ignore_index}: nothing is left to learn from"
            yield self.finding(thing.file, thing.ignore_index, message, image=thing.image)
