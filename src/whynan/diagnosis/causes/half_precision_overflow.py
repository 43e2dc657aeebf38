from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence


class HalfPrecisionOverflow(Cause):
    """float16 ends at 65504. A sum over many elements, a product of activations, a squared value or an unscaled
    attention score is soon beyond it; in float32 or bfloat16 the same step is finite.

    Symptoms:
        NaN or inf only with float16 or autocast; the same script in float32 trains. Often a large model's later
        layers, or a loss computed inside autocast.

    Given:
        x = torch.full((1, 300), 20.0)
        w = torch.full((300, 1), 20.0, requires_grad=True)
    Bad:
        loss = (x.half() @ w.half()).mean()
    Good:
        loss = (x @ w).mean()
    """

    slug = "half-precision-overflow"
    title = "overflow in float16"
    group = "precision"
    remedies = ("full-precision", "normalize-inputs", "lower-learning-rate", "grad-scaler")

    def match(self, evidence: Evidence) -> Match | None:
        if facts.dtype_of(evidence) != "float16" or evidence.origin is None:
            return None
        largest = facts.largest_input(evidence)
        growth = growth_of(evidence)
        if facts.op_of(evidence) in ("log", "log2", "log10", "nll_loss") or facts.with_zero_divisor(evidence):
            return None
        if not facts.is_overflow(evidence) and not facts.output_has_infinity(evidence):
            return None
        confidence = 0.92
        if facts.op_of(evidence).startswith("exp") and largest > facts.exp_limit("float32"):
            confidence = 0.75
        if facts.is_backward(evidence):
            # A scaler is made for this: it halves its scale and goes on. Only a run of skipped steps is an incident.
            confidence = 0.72 if not evidence.precision.scaler else 0.85
        elif growth.diverged:
            confidence = 0.92 if growth.loss < 1e4 and growth.weights < 30 else 0.72
        return Match(
            confidence,
            f"{evidence.origin.op} ran in float16, which ends at 65504, on values up to {facts.number(largest)}; "
            "in float32 the result would be finite.",
            (*facts.input_facts(evidence), f"autocast: {evidence.precision.autocast or 'off'}"),
        )
