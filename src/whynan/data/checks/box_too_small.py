import numpy as np

from whynan.data.annotations import Annotations, number
from whynan.data.finding import Check, Found, Options


class BoxTooSmall(Check):
    """Scaled to the training size such a box is less than a pixel wide: rounding leaves it without width or height, no
    anchor matches it, and a mean over its matches is 0 / 0."""

    title = "box smaller than a pixel at the training size"
    severity = "warning"
    cause = "degenerate-box"
    subject = "annotations"

    def find_with(self, thing: Annotations, options: Options) -> Found:
        sides = np.minimum(thing.sides[:, 0], thing.sides[:, 1])
        longest = np.maximum(thing.size[:, 0], thing.size[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            # An image that is smaller than the training size is not counted as enlarged: loaders differ there.
            scaled = sides * np.minimum(1.0, options.train_size / longest)
            bad = thing.is_sized & (sides > 0) & (scaled < 1.0)
        for row, file, index, look in thing.places(bad):
            message = (
                f"box ({thing.text(row)}) is {number(sides[row])} px at its smaller side, {number(scaled[row])} px "
                f"when its image of {number(longest[row])} px is scaled to {options.train_size}"
            )
            yield self.finding(file, f"{number(scaled[row])} px", message, index, **look)
