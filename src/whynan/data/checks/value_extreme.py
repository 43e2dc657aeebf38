import numpy as np

from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook

SQUARE_OVERFLOWS = 1.8e19
"""The square of more than that is infinite in float32 (largest number 3.4e38)."""
HALF_OVERFLOWS = 65504.0
"""The largest number of float16."""
USUAL = 100.0
"""Mean or standard deviation of a feature beyond which normalising it is usual."""
OUTLIER = 1000.0
"""Distances between the quartiles that a value may lie from the median."""


class ValueExtreme(Check):
    """Activations, squares and gradients grow with the input: values in the thousands diverge at learning rates that
    are right for values around 1, overflow half precision at 65504, and float32 when they are squared at 1.8e19."""

    title = "values of an extreme scale"
    severity = "warning"
    cause = "extreme-input-scale"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        measure = thing.measure
        if measure.count is None or (measure.is_target and measure.labels is not None):
            return
        if measure.is_image_like and not measure.is_target:
            yield from self._image_range(thing)
        largest = np.maximum(np.abs(measure.lows), np.abs(measure.highs))
        for k in range(len(measure.count)):
            if not measure.count[k]:
                continue
            column = measure.columns[k] if measure.columns else (k if len(measure.count) > 1 else None)
            what = measure.names[k] if measure.names else (f"feature {k}" if len(measure.count) > 1 else measure.name)
            span = f"{measure.lows[k]:.4g}..{measure.highs[k]:.4g}"
            if largest[k] > SQUARE_OVERFLOWS:
                message = f"{what} goes over {span}: its square is infinite in float32"
                yield self.finding(thing.file, span, message, column, severity="error")
            elif self._is_outlier(measure, k):
                middle = measure.middle[1][k]
                message = f"{what} goes over {span}, while its median is {middle:.4g} and half of it lies within "
                message += f"{measure.middle[0][k]:.4g}..{measure.middle[2][k]:.4g}: an outlier"
                yield self.finding(thing.file, span, message, column)
            elif largest[k] > HALF_OVERFLOWS:
                message = f"{what} goes over {span}: beyond 65504 it is infinite in half precision"
                yield self.finding(thing.file, span, message, column)
            elif not measure.is_image_like and (abs(measure.mean[k]) > USUAL or measure.std[k] > USUAL):
                message = (
                    f"{what} has mean {measure.mean[k]:.4g} and standard deviation {measure.std[k]:.4g}: not normalised"
                )
                yield self.finding(thing.file, span, message, column, severity="note")

    def _is_outlier(self, measure: "object", k: int) -> bool:
        middle = getattr(measure, "middle", None)
        if middle is None:
            return False
        low, median, high = (float(middle[row][k]) for row in range(3))
        reach = OUTLIER * (high - low)
        return high > low and (measure.highs[k] - median > reach or median - measure.lows[k] > reach)  # type: ignore[attr-defined]

    def _image_range(self, thing: ArrayLook) -> Found:
        low, high = thing.measure.low, thing.measure.high
        if 1.5 < high <= 255 and low >= 0 and high > 32:
            is_byte = thing.measure.dtype == "uint8"
            message = f"values go from {low:g} to {high:g}, where 0..1 is usual: " + (
                "divide by 255" if is_byte else "floats that were not divided by 255"
            )
            yield self.finding(thing.file, f"{low:g}..{high:g}", message, severity="note" if is_byte else "warning")
