import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence

ERROR = re.compile(r"positive height and width|degenerate|invalid box|x2 .*x1|bounding boxes should", re.IGNORECASE)
NAMES = r"iou|box|encode|anchor|area|width|height|\b[gda]?[wh]\b|wh\b|xyxy|xywh|corner|regress"
OPS = ("log", "log2", "div", "sqrt", "reciprocal", "atan", "atan2", "pow", "rsqrt", "log1p")


class DegenerateBox(Cause):
    """A target box has no width or no height, or its corners are swapped. Box regression takes log(width / anchor) and
    IoU divides by areas: both are not finite for such a box.

    Symptoms:
        One loss term of the detector (box regression) is inf or NaN at some batches; classification terms are
        fine. torchvision's detectors stop with "All bounding boxes should have positive height and width".

    Given:
        boxes = torch.tensor([[2.0, 3.0, 8.0, 9.0], [5.0, 1.0, 5.0, 4.0]])
        anchor_width = torch.tensor(4.0, requires_grad=True)
    Bad:
        width = boxes[:, 2] - boxes[:, 0]
        loss = torch.log(width / anchor_width).abs().mean()
    Good:
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        width = boxes[:, 2] - boxes[:, 0]
        loss = torch.log(width / anchor_width).abs().mean()
    """

    slug = "degenerate-box"
    title = "a target box has no area"
    group = "data"
    remedies = ("drop-sample", "fix-labels", "clamp-or-eps")

    def match(self, evidence: Evidence) -> Match | None:
        boxes = evidence.batch.degenerate_boxes
        told = bool(evidence.error and ERROR.search(evidence.error))
        depends = facts.op_of(evidence) in OPS or facts.path_mentions(evidence, NAMES)
        if boxes:
            position, box = boxes[0]
            sure = told or (depends and not facts.is_overflow(evidence))
            return Match(
                0.45 if not sure else 0.6 if growth_of(evidence).diverged else 0.95,
                f"The box ({', '.join(facts.number(side) for side in box)}) at position {position} of the batch has no "
                "width or no height.",
                tuple(f"position {p}: box ({', '.join(facts.number(side) for side in b)})" for p, b in boxes[:5]),
            )
        if told and evidence.error:
            return Match(0.85, f"The step ended with: {evidence.error.splitlines()[0]}", (evidence.error[:200],))
        zeros = facts.with_zeros(evidence)
        if zeros is not None and facts.op_of(evidence) in OPS and facts.mentions(evidence, r"iou|box"):
            return Match(
                facts.local(evidence, 0.55),
                "The operation works on boxes and met an exact 0: a width, a height or an area; no box of the batch "
                "itself is known to be without one.",
                facts.input_facts(evidence),
            )
        return None
