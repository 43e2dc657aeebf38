import numpy as np

from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook

RELATIVE = 1e-5
"""Standard deviation over mean: float32 has about 7 digits, of which E[x^2] - E[x]^2 loses twice as many."""
ABSOLUTE = 1e-4
"""The variance is then below 1e-8, a thousandth of the usual eps of batch norm."""


class FeatureNearZeroVariance(Check):
    """The variance is below eps, or below what float32 can tell from the mean: normalisation blows rounding up to the
    size of a signal, or divides by 0 after cancellation."""

    title = "feature of nearly one value"
    severity = "warning"
    cause = "normalization-zero-variance"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        measure = thing.measure
        if measure.is_target or measure.count is None or measure.n_rows < 8 or len(measure.shape) < 2:
            return
        std, mean = measure.std, np.abs(measure.mean)
        with np.errstate(invalid="ignore", over="ignore"):
            bad = (measure.lows < measure.highs) & (std > 0) & ((std < RELATIVE * mean) | (std < ABSOLUTE))
        for k in bad.nonzero()[0].tolist():
            column = measure.columns[k] if measure.columns else k
            what = measure.names[k] if measure.names else f"feature {k}"
            message = f"{what} has standard deviation {std[k]:.3g} around a mean of {measure.mean[k]:.6g}"
            yield self.finding(thing.file, f"std {std[k]:.3g}", message, column)
