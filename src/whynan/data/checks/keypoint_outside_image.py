import numpy as np

from whynan.data.annotations import Annotations, number
from whynan.data.finding import Check, Found, Options, Severity


class KeypointOutsideImage(Check):
    """The heatmap of such a keypoint is empty, and a loss that divides by its sum divides by 0; an index computed
    from it is out of range."""

    title = "labelled keypoint outside of its image"
    severity = "warning"
    cause = "empty-target"
    subject = "annotations"

    def find_with(self, thing: Annotations, options: Options) -> Found:
        if thing.keypoints is None or not len(thing.keypoints.owner):
            return
        owner, xy = thing.keypoints.owner, thing.keypoints.xy
        size = thing.size[owner]
        over = np.maximum(-xy, xy - size).max(axis=1)
        for k in np.flatnonzero(~(over <= options.tolerance) & (size > 0).all(axis=1)).tolist():
            row = int(owner[k])
            file, index = thing.where(row)
            text = f"({number(xy[k, 0])}, {number(xy[k, 1])})"
            message = f"keypoint {text} is outside of the image of {number(size[k, 0])} x {number(size[k, 1])} px"
            severity: Severity = "warning" if np.isfinite(xy[k]).all() else "error"
            yield self.finding(
                file, text, message, index, severity=severity, image=thing.image_name(row), box=thing.pixels(row)
            )
