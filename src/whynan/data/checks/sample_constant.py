from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook


class SampleConstant(Check):
    """Normalising the sample by its own standard deviation divides by 0; so does a cosine or a correlation with it."""

    title = "sample of one single value"
    severity = "warning"
    cause = "constant-input"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        measure = thing.measure
        if measure.n_constant == measure.n_rows and measure.n_rows > 1 and measure.low == measure.high:
            return  # everything is one value: that is feature-zero-variance, or a table of placeholders
        for row in measure.constant_rows:
            yield self.finding(thing.file, f"row {row}", f"all values of row {row} are the same", row)
