import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence

DOMAINS = ("log", "log2", "log10", "log1p", "sqrt", "pow", "xlogy", "logit")
ERROR = re.compile(r"out of (bounds|range)|n_classes|class values must be|t >= 0", re.IGNORECASE)


class LabelOutOfRange(Cause):
    """A label is outside [0, number of classes), or outside [0, 1] for a binary loss: labels counted from 1, a 255 that
    nobody declared as "ignore", a -1 for "unknown".

    Symptoms:
        An index error on the CPU, a device-side assertion on a GPU; with a hand-written loss, log of a negative
        number or a loss that falls below 0 and goes to -inf, because a label of 2 pays for ever larger logits.

    Given:
        p = torch.tensor([0.2, 0.3, 0.9], requires_grad=True)
        y = torch.tensor([0, 2, 1])
    Bad:
        loss = -torch.log(p * y + (1 - p) * (1 - y)).mean()
    Good:
        y = (y == 2).long()
        loss = -torch.log(p * y + (1 - p) * (1 - y)).mean()
    """

    slug = "label-out-of-range"
    title = "a label names a class that does not exist"
    group = "data"
    remedies = ("fix-labels", "drop-sample")

    def match(self, evidence: Evidence) -> Match | None:
        wrong = evidence.batch.labels_out_of_range
        if wrong:
            position, label = wrong[0]
            table = facts.first(evidence)
            is_index = table is not None and table.role == "parameter" and facts.op_of(evidence) in ("gather", "take")
            what, lacks = ("index", "has no row in the table") if is_index else ("label", "names no class")
            return Match(
                0.5 if growth_of(evidence).diverged else 0.93,
                f"The {what} {facts.number(label)} at position {position} of the batch {lacks}.",
                tuple(f"position {position}: {what} {facts.number(label)}" for position, label in wrong[:5]),
            )
        if evidence.error and ERROR.search(evidence.error) and not facts.is_overflow(evidence):
            return Match(0.85, f"The step ended with: {evidence.error.splitlines()[0]}", (evidence.error[:200],))
        return self.match_odd(evidence) or self.match_binary(evidence)

    def match_odd(self, evidence: Evidence) -> Match | None:
        """Match a value beside 0 and 1 that only the guilty sample has, where a function left its domain."""
        guilty = {sample.position for sample in evidence.samples}
        odd = [found for found in evidence.batch.odd_labels if found[0] in guilty]
        if not odd or not facts.is_forward(evidence) or facts.op_of(evidence) not in DOMAINS:
            return None
        position, label = odd[0]
        return Match(
            facts.local(evidence, 0.93),
            f"The target at position {position} of the batch holds {facts.number(label)}; all others are 0 or 1.",
            tuple(f"position {position}: label {facts.number(label)}" for position, label in odd),
        )

    def match_binary(self, evidence: Evidence) -> Match | None:
        if not (evidence.loss_function or "").startswith("binary_cross_entropy") or len(evidence.loss_inputs) < 2:
            return None
        target = evidence.loss_inputs[1]
        if target.min is None or target.max is None or (target.min >= 0 and target.max <= 1):
            return None
        return Match(
            0.91 if target.max < 1.5 else 0.95,
            f"{evidence.loss_function} got targets from {facts.number(target.min)} to {facts.number(target.max)}; "
            "outside [0, 1] it has no lower bound.",
            (f"target: {facts.describe(target)}",),
        )
