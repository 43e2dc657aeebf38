from whynan.data.finding import Check, Found, report
from whynan.data.units import ImageLook


class ImageDepth(Check):
    """Images of 16 bits or floats pass ToTensor without being divided by 255: their values are up to 65535 where others
    are at most 1, and the first layers overflow in half precision."""

    title = "image of 16 bits or floats"
    severity = "warning"
    cause = "extreme-input-scale"
    subject = "image"

    def find(self, thing: ImageLook) -> Found:
        facts = thing.facts
        if facts.get("error") or not facts.get("wide"):
            return
        for slug, kind in (("value-nan", "nan"), ("value-inf", "inf")):
            if facts[kind]:
                yield report(slug, thing.file, f"{facts[kind]} {kind}", f"{facts[kind]} pixels are {kind}")
        low, high = facts["range"]
        if high > 1 or low < 0:
            message = f"values go from {low:g} to {high:g} (mode {facts['mode']}): not scaled to 0..1 as 8 bits are"
            yield self.finding(thing.file, f"{low:g}..{high:g}", message)
