import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

REDUCTIONS = ("mean", "std", "var", "median", "nll_loss", "cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss",
              "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div", "nanmedian",
              "average", "soft_margin_loss")  # fmt: skip
ERROR = re.compile(r"zero elements|empty tensor|degrees of freedom|no identity", re.IGNORECASE)


class EmptyReduction(Cause):
    """A mean was taken over no elements (0 / 0), or a standard deviation over one (it divides by n - 1). A selection
    by a mask, the last incomplete batch, or a loss whose targets are all ignored leaves nothing to reduce.

    Symptoms:
        NaN at single batches with finite numbers all around; with `std`, at a batch or a group of size 1.

    Given:
        error = torch.tensor([0.2, 0.1], requires_grad=True)
        positive = torch.tensor([False, False])
    Bad:
        loss = error[positive].mean()
    Good:
        loss = error[positive].sum() / positive.sum().clamp(min=1)
    """

    slug = "empty-reduction"
    title = "mean or spread over nothing"
    group = "math"
    remedies = ("skip-empty", "drop-sample", "clamp-or-eps")

    def match(self, evidence: Evidence) -> Match | None:
        op = facts.op_of(evidence)
        first = facts.first(evidence)
        empty = first is not None and first.n_elements == 0
        ignored = bool(evidence.batch.ignored_samples) and op in ("nll_loss", "cross_entropy")
        single = op in ("std", "var") and first is not None and first.n_elements == 1
        if evidence.reduces_nothing or (empty and op in REDUCTIONS) or single:
            return Match(
                0.92,
                self.sentence(op, single or (op in ("std", "var") and not empty)),
                facts.input_facts(evidence),
            )
        if ignored and not facts.is_overflow(evidence):
            return Match(
                0.9,
                f"{op} takes the mean over the targets that are not ignored, and none is left: 0 / 0.",
                facts.input_facts(evidence),
            )
        if evidence.error and ERROR.search(evidence.error):
            return Match(0.7, f"The step ended with: {evidence.error.splitlines()[0]}", (evidence.error[:200],))
        # A loss of the mean kind that is NaN for finite and moderate inputs had nothing to average over.
        if op in ("nll_loss", "cross_entropy") and facts.is_forward(evidence) and facts.output_has_nan(evidence):
            inputs = facts.inputs(evidence)
            if inputs and not any(tensor.n_nonfinite for tensor in inputs) and facts.largest_input(evidence) < 1e30:
                return Match(0.8, f"{op} gave NaN for finite inputs: no target was left to average over.",
                             facts.input_facts(evidence))  # fmt: skip
        return None

    def sentence(self, op: str, single: bool) -> str:
        if single:
            return f"{op} was taken over fewer than two elements; with its n - 1 that is 0 / 0."
        if op in ("nll_loss", "cross_entropy"):
            return f"{op} takes the mean over the targets that are not ignored, and none is left: 0 / 0."
        return f"{op} was taken over no elements at all: 0 / 0."
