from whynan.data.finding import Check, Found
from whynan.data.units import ArrayLook


class FeatureZeroVariance(Check):
    """Standardising divides by the standard deviation, here 0: the feature becomes NaN in every row. Batch norm over it
    lives on eps alone, and its gradients are large."""

    title = "feature of one single value"
    severity = "warning"
    cause = "normalization-zero-variance"
    subject = "array"

    def find(self, thing: ArrayLook) -> Found:
        measure = thing.measure
        if measure.is_target or measure.count is None or measure.n_rows < 2 or measure.dtype == "bool":
            return
        if (
            len(measure.shape) > 1
            and len(measure.count) == 1
            and measure.shape[-1] != 1
            and measure.channel_axis is None
        ):
            return  # the values of an image without channels were measured as one
        for k in ((measure.lows == measure.highs) & (measure.count > 1)).nonzero()[0].tolist():
            column = measure.columns[k] if measure.columns else k
            what = measure.names[k] if measure.names else f"{'channel' if measure.channel_axis else 'feature'} {k}"
            level = f"{measure.lows[k]:.6g}"
            yield self.finding(thing.file, f"always {level}", f"{what} is {level} in all {measure.n_rows} rows", column)
