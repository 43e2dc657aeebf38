from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence

EXPONENTIALS = ("exp", "expm1", "exp2", "sinh", "cosh", "logaddexp", "poisson_nll_loss", "softplus")
HUGE = 1e10
"""No weights and data of usual sizes make such a value in a few layers; exp does from an argument of 23 on."""


class ExpOverflow(Cause):
    """exp(x) leaves float32 at x = 88.7 (float16 at 11.1, float64 at 709.8): a hand-written softmax without subtracting
    the maximum, a log-variance or a log-width that nobody bounded.

    Symptoms:
        inf in an activation, then inf / inf = NaN in a normalisation or 0 * inf in the gradient; no warning
        before, a step of a few units in the logarithm is enough.

    Given:
        scores = torch.tensor([[3.0, 120.0], [1.0, 2.0]], requires_grad=True)
    Bad:
        e = torch.exp(scores)
        loss = (e / e.sum(dim=1, keepdim=True))[:, 0].mean()
    Good:
        loss = torch.softmax(scores, dim=1)[:, 0].mean()
    """

    slug = "exp-overflow"
    title = "exponential of a number that is too large"
    group = "math"
    remedies = ("stable-loss", "clamp-or-eps", "normalize-inputs", "lower-learning-rate", "full-precision")

    def match(self, evidence: Evidence) -> Match | None:
        op = facts.op_of(evidence)
        if op not in EXPONENTIALS and evidence.origin is not None:
            return self.behind(evidence)
        if op not in EXPONENTIALS or evidence.origin is None or facts.is_optimizer(evidence):
            return None
        dtype = facts.dtype_of(evidence)
        limit = facts.exp_limit(dtype) * (1.44 if op == "exp2" else 1.0)
        largest = max((t.max for t in facts.inputs(evidence) if t.max is not None), default=None)
        if op in ("sinh", "cosh"):
            largest = facts.largest_input(evidence)
        if largest is None:
            return Match(facts.local(evidence, 0.5), f"{op} gave a non-finite value.", facts.input_facts(evidence))
        if largest < limit * 0.98 and facts.is_forward(evidence):
            return None
        if largest < limit * 0.5:
            return None
        # What float32 would hold is a matter of precision first.
        confidence = 0.82 if dtype == "float16" and largest < facts.exp_limit("float32") else 0.94
        return Match(
            facts.local(evidence, confidence),
            f"{op} got {facts.number(largest)}; in {dtype} it overflows beyond {facts.number(limit)}.",
            (*facts.input_facts(evidence), *growth_of(evidence).facts()),
        )

    def behind(self, evidence: Evidence) -> Match | None:
        """Return a match where a square or a sum overflowed on values that an exponential had made huge before."""
        growth = growth_of(evidence)
        if not facts.is_forward(evidence) or growth.diverged or growth.large or not facts.is_overflow(evidence):
            return None
        if "exp" not in evidence.extra.get("made_by", ()) or facts.largest_input(evidence) < HUGE:
            return None
        return Match(
            facts.local(evidence, 0.62),
            f"The values that overflow in {facts.op_of(evidence)} reach {facts.number(facts.largest_input(evidence))}, "
            "and an exponential a few operations before is among what made them.",
            facts.input_facts(evidence),
        )
