import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

SMALLEST = 6e-8
LITERAL = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)e-\d+", re.IGNORECASE)


class HalfPrecisionUnderflow(Cause):
    """float16 has nothing between 0 and 6e-8: an eps of 1e-8 is 0 there, small probabilities and squared small numbers
    vanish, and the logarithm or division that the eps was to protect meets an exact 0.

    Symptoms:
        log(0), 0 / 0 or the slope of sqrt at 0 in half precision although the code has an eps; in float32 the
        same step is finite.

    Given:
        p = torch.tensor([0.0, 0.5]).half().requires_grad_()
    Bad:
        loss = -torch.log(p + 1e-8).mean()
    Good:
        loss = -torch.log(p.float() + 1e-4).mean()  # 1e-4: its slope of 1e4 fits a float16 gradient too
    """

    slug = "half-precision-underflow"
    title = "underflow to 0 in float16"
    group = "precision"
    remedies = ("full-precision", "larger-eps", "clamp-or-eps", "stable-loss", "grad-scaler")

    def match(self, evidence: Evidence) -> Match | None:
        origin = evidence.origin
        if origin is None or not facts.runs_in_half(evidence) or facts.is_overflow(evidence):
            return None
        zeros = facts.with_zero_divisor(evidence) or facts.with_zeros(evidence)
        if facts.is_optimizer(evidence):
            return self.match_optimizer(evidence)
        if zeros is None or facts.op_of(evidence) not in facts.SINGULAR | {"pow", "std", "rsqrt"}:
            return None
        half = facts.dtype_of(evidence) == "float16" or zeros.dtype == "float16"
        lost = self.lost_eps(origin.source.code or "", origin.args | evidence.extra.get("named_numbers", {}))
        if lost is not None and half:
            confidence = 0.95
        elif half:
            confidence = 0.82 if facts.op_of(evidence) in ("log", "log2", "log10") else 0.8
        elif evidence.precision.autocast == "float16" or evidence.precision.parameters == "float16":
            confidence = 0.7
        else:
            # bfloat16 has float32's range: only rounding next to 1 takes a value to 0 there.
            confidence = 0.5
        reason = f"an eps of {lost:g} is 0 in float16" if lost is not None and half else "below 6e-8 float16 has only 0"
        return Match(
            facts.local(evidence, confidence),
            f"{origin.op} met an exact 0 in half precision; {reason}.",
            (*facts.input_facts(evidence), f"autocast: {evidence.precision.autocast or 'off'}"),
        )

    def match_optimizer(self, evidence: Evidence) -> Match | None:
        eps = evidence.optimizer.eps if evidence.optimizer else None
        if eps is None or not 0 < eps < 1e-7 or facts.dtype_of(evidence) != "float16":
            return None
        return Match(
            0.88,
            f"The optimizer's state is float16: its squared gradients and its eps of {eps:g} are 0 there, and "
            "it divides by "
            "their sum.",
            facts.input_facts(evidence),
        )

    def lost_eps(self, code: str, args: dict[str, object]) -> float | None:
        """Return a number on the line or among the arguments that is 0 in float16, where there is one."""
        given = [float(text) for text in LITERAL.findall(code)]
        given += [value for value in args.values() if isinstance(value, float)]
        return next((value for value in given if 0 < value < SMALLEST / 2), None)
