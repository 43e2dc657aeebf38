from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class FixLabels(Remedy):
    """Mend the target where it is made: count classes from 0, declare the "ignore" value, swap the corners of a box
    back, replace a missing value. Right where several samples have the same mistake.

    Code:
        y = y - 1                                    # classes counted from 1
        loss = F.cross_entropy(out, y, ignore_index=255)
        boxes = torch.cat([torch.minimum(a, b), torch.maximum(a, b)], dim=1)
    """

    slug = "fix-labels"
    title = "mend the targets"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        if cause == "degenerate-box":
            return "boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]"
        if cause == "bad-target-values":
            return "known = torch.isfinite(y); pred, y = pred[known], y[known]"
        if cause == "label-out-of-range" and evidence.batch.labels_out_of_range:
            label = evidence.batch.labels_out_of_range[0][1]
            if label in (255, -1):
                return f"F.cross_entropy(..., ignore_index={int(label)})"
        return None
