from whynan.data.finding import Check, Found
from whynan.data.readers.images import is_right_extension
from whynan.data.units import ImageLook


class ImageExtensionMismatch(Check):
    """Readers that choose the decoder by the extension (tf.io.decode_png, many data pipelines) fail on the file; Pillow
    and OpenCV look at the content and do not mind."""

    title = "content is not what the extension says"
    severity = "warning"
    subject = "image"

    def find(self, thing: ImageLook) -> Found:
        format_ = thing.facts.get("format")
        if format_ and not is_right_extension(thing.extension, format_):
            yield self.finding(
                thing.file,
                format_,
                f"the extension says .{thing.extension}, the content is {format_}",
                image=thing.file,
            )
