from whynan.data.finding import Check, Found
from whynan.data.units import MaskLook


class SizeMismatch(Check):
    """Boxes divided by a wrong width are wrong, beyond 1 or, where a size of 0 is written, infinite; a mask of another
    size than its image stops the loss or is resized into wrong labels."""

    title = "sizes that do not agree"
    severity = "error"
    cause = "bad-target-values"
    fixable = True
    subject = "mask"

    def find(self, thing: MaskLook) -> Found:
        size, image = thing.facts.get("size"), thing.image_size
        if size and image and tuple(size) != tuple(image) and not thing.facts.get("error"):
            message = f"mask is {size[0]} x {size[1]} px, its image {image[0]} x {image[1]}"
            yield self.finding(thing.file, f"{size[0]}x{size[1]}", message, fixable=False, image=thing.image)

    def declared(
        self, file: str, image: str | None, told: tuple[float | None, float | None], real: tuple[int, int] | None
    ) -> Found:
        """Yield what is wrong with the width and height that an annotation gives for its image."""
        width, height = told
        if width is None or height is None or width != width or height != height:
            return
        text = f"{width:g}x{height:g}"
        if width <= 0 or height <= 0:
            message = f"the size is given as {width:g} x {height:g}" + (
                f"; the image has {real[0]} x {real[1]} px" if real else ""
            )
            yield self.finding(file, text, message, fixable=real is not None, image=image)
        elif real is not None and (width, height) != real:
            turned = (height, width) == real
            message = f"the size is given as {width:g} x {height:g}, the image has {real[0]} x {real[1]} px"
            if turned:
                message += " (turned: was the annotation made on the image as its EXIF orientation shows it?)"
            yield self.finding(file, text, message, fixable=not turned, image=image)
