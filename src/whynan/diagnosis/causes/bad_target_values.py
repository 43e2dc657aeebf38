from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence


class BadTargetValues(Cause):
    """The target holds NaN or Inf, a stand-in for "missing", or asks for the impossible: a text longer than the frames
    that CTC has for it, a negative price under a logarithm.

    Symptoms:
        The loss is NaN or inf at one batch although every prediction is finite. With a robust loss the value
        may pass unnoticed and only the weights turn NaN.

    Given:
        pred = torch.tensor([0.1, 0.4, 0.3], requires_grad=True)
        y = torch.tensor([0.0, float("nan"), 1.0])
    Bad:
        loss = F.mse_loss(pred, y)
    Good:
        known = torch.isfinite(y)
        loss = F.mse_loss(pred[known], y[known])
    """

    slug = "bad-target-values"
    title = "the target holds values that the loss can't use"
    group = "data"
    remedies = ("drop-sample", "fix-labels", "stable-loss")

    def match(self, evidence: Evidence) -> Match | None:
        leaf = evidence.bad_leaf
        bad = leaf.tensor if leaf is not None and leaf.tensor.role == "target" else None
        if bad is None:
            bad = next((t for t in evidence.batch.tensors if t.role == "target" and t.n_nonfinite), None)
        if bad is not None:
            return Match(
                0.96 if leaf is not None and leaf.tensor.role == "target" else 0.55 if leaf is not None else 0.85,
                f"The target came with {bad.n_nonfinite} non-finite values; the predictions were finite.",
                (f"target: {facts.describe(bad)}",),
            )
        if self.is_impossible_alignment(evidence):
            return Match(
                0.9,
                "CTC is inf for finite inputs: a target is longer than the frames there are for it (repeated "
                "symbols need "
                "one frame more each).",
                facts.input_facts(evidence),
            )
        first = facts.first(evidence)
        if first is None or first.role != "target" or not facts.is_forward(evidence):
            return None
        op = facts.op_of(evidence)
        if op in ("log", "log2", "log10", "log1p", "sqrt", "pow") and first.n_negative:
            return Match(
                facts.local(evidence, 0.93),
                f"A target of {facts.number(first.min)} went into {op}: negative targets are outside its domain.",
                facts.input_facts(evidence),
            )
        if op.startswith("log") and first.n_zero:
            return Match(
                facts.local(evidence, 0.8), f"A target of exactly 0 went into {op}.", facts.input_facts(evidence)
            )
        return None

    def is_impossible_alignment(self, evidence: Evidence) -> bool:
        if "ctc" not in (evidence.loss_function or "") and "ctc" not in facts.op_of(evidence):
            return False
        origin = evidence.origin
        if origin is None or "ctc" not in facts.op_of(evidence):
            return False
        return not any(tensor.n_nonfinite for tensor in facts.inputs(evidence))
