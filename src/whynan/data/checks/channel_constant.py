from whynan.data.finding import Check, Found
from whynan.data.units import ImageLook


class ChannelConstant(Check):
    """Standardising each channel of an image by itself divides by 0 in this channel; instance norm does the same."""

    title = "image with a constant channel"
    severity = "note"
    cause = "constant-input"
    subject = "image"

    def find(self, thing: ImageLook) -> Found:
        flat = thing.facts.get("flat") or []
        if thing.facts.get("error") or thing.facts["mode"] not in ("RGB", "RGBA") or not any(flat[:3]) or all(flat[:3]):
            return
        for channel in (k for k in range(3) if flat[k]):
            level = f"{thing.facts['level'][channel]:.4g}"
            message = f"channel {'RGB'[channel]} is {level} of 1 in every pixel"
            yield self.finding(thing.file, f"{'RGB'[channel]}={level}", message, image=thing.file)
