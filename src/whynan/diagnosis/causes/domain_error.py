from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence, TensorSummary

POSITIVE = ("log", "log2", "log10", "sqrt", "rsqrt", "xlogy")
UNIT = ("acos", "asin", "atanh", "erfinv", "logit")


class DomainError(Cause):
    """A function got an argument outside its domain: acos(x) for |x| > 1, which rounding reaches for parallel vectors;
    log or sqrt of a negative number; a negative base under a fractional exponent.

    Symptoms:
        NaN at once, forward. acos and asin also have an infinite slope at exactly 1 and -1: there the loss is
        finite and the gradient is not.

    Given:
        a = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        b = torch.tensor([[2.0, 4.0, 6.0]])
    Bad:
        cos = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) + 1e-7
        loss = torch.acos(cos).mean()
    Good:
        cos = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) + 1e-7
        loss = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6)).mean()
    """

    slug = "domain-error"
    title = "argument outside a function's domain"
    group = "math"
    remedies = ("clamp-or-eps", "double-where", "stable-loss", "drop-sample")

    def match(self, evidence: Evidence) -> Match | None:
        if facts.is_backward(evidence) and facts.op_of(evidence) in (*UNIT, "acosh"):
            return self.match_slope(evidence)
        for tensor in self.arguments(evidence):
            said = self.outside(evidence, tensor)
            if said is not None:
                return Match(
                    facts.local(evidence, 0.92), f"{facts.op_of(evidence)} got {said}.", facts.input_facts(evidence)
                )
        return None

    def match_slope(self, evidence: Evidence) -> Match:
        """Match a derivative: what was measured may be the argument, or 1 - x * x under the root."""
        op = facts.op_of(evidence)
        at_end = any(t.min == -1 or t.max == 1 or t.n_zero for t in facts.inputs(evidence))
        return Match(
            facts.local(evidence, 0.91 if at_end else 0.7),
            f"The slope of {op} is infinite at the ends of its domain, and {op} got one of them; the value is finite.",
            facts.input_facts(evidence),
        )

    def arguments(self, evidence: Evidence) -> tuple[TensorSummary, ...]:
        """Return what may be the function's argument: one tensor, and only in the forward pass."""
        given = facts.inputs(evidence)
        if facts.is_backward(evidence) or (facts.is_optimizer(evidence) and facts.op_of(evidence) != "pow"):
            return ()
        return given[1:2] if facts.op_of(evidence) == "xlogy" and len(given) > 1 else given[:1]

    def outside(self, evidence: Evidence, x: TensorSummary) -> str | None:
        """Return what is wrong with the argument, None where nothing is."""
        op, low, high = facts.op_of(evidence), x.min, x.max
        if op == "logdet" and facts.output_has_nan(evidence):
            return "a matrix whose determinant is negative; torch.linalg.slogdet gives its sign and log|det| apart"
        if low is None or high is None:
            return None
        if op in UNIT:
            bottom = 0.0 if op == "logit" else -1.0
            if low < bottom or high > 1:
                return f"{low if low < bottom else high!r}; its domain is [{bottom:g}, 1]"
            if op in ("atanh", "erfinv") and (low == -1 or high == 1):
                return f"{low if low == -1 else high!r}; it is infinite at the ends of [-1, 1]"
            return None
        if op in POSITIVE and low < 0:
            return f"{low!r}; it takes no negative numbers ({x.n_negative} of {x.n_elements})"
        if op == "log1p" and low < -1:
            return f"{low!r}; its domain ends at -1"
        if op == "acosh" and low < 1:
            return f"{low!r}; its domain begins at 1"
        if op in ("lgamma", "digamma") and low <= 0:
            return f"{low!r}; it has poles at 0 and the negative integers"
        exponent = facts.exponent(evidence)
        if (
            op == "pow"
            and low < 0
            and (exponent is None or exponent != int(exponent))
            and facts.output_has_nan(evidence)
        ):
            given = "a fractional exponent" if exponent is None else f"exponent {exponent:g}"
            return f"the base {low!r} with {given}"
        return None
