from whynan.data.finding import Check, Found
from whynan.data.units import ImageLook


class ImageUnreadable(Check):
    """The loader raises an exception in the middle of an epoch, or, where truncated files are allowed, fills the rest
    of the image with grey."""

    title = "image that cannot be read"
    severity = "error"
    cause = "bad-input-values"
    subject = "image"

    def find(self, thing: ImageLook) -> Found:
        error = thing.facts.get("error")
        if error:
            size = thing.facts.get("size")
            value = (
                f"{thing.facts.get('format')} {size[0]} x {size[1]}" if size else f"{thing.facts.get('bytes', 0)} bytes"
            )
            yield self.finding(thing.file, value, f"image cannot be read: {error}")
