from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence


class MissingGradScaling(Cause):
    """float16 gradients were used as they came, with no dynamic scale. Small ones are 0, which an optimizer or a
    hand-written normalisation divides by; large ones (or a fixed factor on the loss) are inf, and nobody skips that
    step.

    Symptoms:
        Mixed precision with float16 and without GradScaler: gradients that are exactly 0, or weights that are NaN
        after a step whose loss was fine.

    Given:
        w = torch.tensor([1.0], dtype=torch.float16, requires_grad=True)
        x = torch.tensor([3.0], dtype=torch.float16)
    Bad:
        (w * x * 40000).sum().backward()
        with torch.no_grad():
            loss = (w - 0.01 * w.grad).sum()
    Good:
        scale = 40000.0
        (w * x * scale).sum().backward()
        found_inf = not torch.isfinite(w.grad).all()
        w.grad = None
        if found_inf:
            scale /= 64
        (w * x * scale).sum().backward()
        with torch.no_grad():
            loss = (w - 0.01 * w.grad.float() / scale).sum()
    """

    slug = "missing-grad-scaling"
    title = "float16 gradients without a scaler"
    group = "precision"
    remedies = ("grad-scaler", "full-precision", "clip-gradients")

    def match(self, evidence: Evidence) -> Match | None:
        precision = evidence.precision
        float16 = "float16" in (precision.autocast, precision.parameters) or facts.dtype_of(evidence) == "float16"
        if not float16 or precision.scaler:
            return None
        used = (f"autocast: {precision.autocast or 'off'}", f"parameters: {precision.parameters}", "GradScaler: none")
        if facts.is_backward(evidence) and facts.dtype_of(evidence) == "float16":
            # An infinite slope is not finite under any scale; that is for the local causes.
            singular = facts.op_of(evidence) in facts.SINGULAR and not facts.output_has_infinity(evidence)
            if singular or facts.with_zero_divisor(evidence):
                return Match(0.5, "The gradient is float16 and not scaled.", used)
            return Match(
                0.88,
                "A float16 gradient overflowed, and there is no GradScaler that would skip the step and lower "
                "the scale.",
                (*used, *facts.input_facts(evidence)),
            )
        if facts.is_optimizer(evidence):
            zeros = facts.with_zeros(evidence)
            confidence = 0.6 if zeros is not None else 0.45
            return Match(
                confidence,
                "The optimizer worked on unscaled float16 gradients; below 6e-8 they are exactly 0.",
                (*used, *facts.input_facts(evidence)),
            )
        if evidence.origin is None and evidence.symptom.what == "gradient":
            return Match(0.55, "A gradient went non-finite in float16, and no GradScaler would skip the step.", used)
        return None
