from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

MEANS = ("nll_loss", "cross_entropy", "mean", "sum", "std", "var", "max", "min", "amax", "smooth_l1_loss", "mse_loss",
         "l1_loss", "binary_cross_entropy", "median")  # fmt: skip


class EmptyTarget(Cause):
    """A sample has no target: an image without objects, a mask that is "ignore" throughout, a text cut off before its
    answer. A mean over its targets divides by their number, 0.

    Symptoms:
        The loss is NaN at single batches, most often at small batch sizes or in validation; gradients may even
        stay finite, so training goes on and only the averaged loss is ruined.

    Given:
        logits = torch.tensor([[0.3, -0.2], [0.1, 0.5]], requires_grad=True)
        y = torch.tensor([-100, -100])
    Bad:
        loss = F.cross_entropy(logits, y, ignore_index=-100)
    Good:
        total = F.cross_entropy(logits, y, ignore_index=-100, reduction="sum")
        loss = total / (y != -100).sum().clamp(min=1)
    """

    slug = "empty-target"
    title = "a sample without any target"
    group = "data"
    remedies = ("skip-empty", "drop-sample", "clamp-or-eps")

    def match(self, evidence: Evidence) -> Match | None:
        batch = evidence.batch
        positions = batch.empty_targets or batch.ignored_samples
        if not positions:
            return None
        what = "no target" if batch.empty_targets else "nothing but the ignore index as target"
        whole = batch.size is not None and len(set(positions)) >= batch.size
        op = facts.op_of(evidence)
        if evidence.reduces_nothing or (op in ("nll_loss", "cross_entropy") and (whole or batch.size is None)):
            confidence = 0.94
        elif op == "div" and facts.with_zeros(evidence) is not None:
            confidence = 0.8
        elif op in MEANS and not facts.is_overflow(evidence):
            confidence = 0.7
        else:
            confidence = 0.3
        return Match(
            facts.local(evidence, confidence),
            f"{len(positions)} of {batch.size or 'the'} samples of the batch have {what}; a mean over targets "
            "divides by 0.",
            (f"positions with {what}: {', '.join(map(str, positions[:8]))}", *facts.input_facts(evidence)),
        )
