from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

ROOTS = ("sqrt", "rsqrt", "norm", "cdist", "pairwise_distance", "pdist", "std", "hypot", "cbrt", "dist", "renorm",
         "euclidean_dist")  # fmt: skip


class SqrtAtZero(Cause):
    """The derivative of a root at 0 is infinite: sqrt, a norm, a standard deviation, a power with an exponent between 0
    and 1. The value itself is a harmless 0, so the loss looks fine; the gradient is inf, and NaN after a factor 0.

    Symptoms:
        The loss is finite, all gradients are NaN after one batch: two identical vectors in a distance, a
        constant row under `std`, a gradient of exactly 0 under a gradient penalty.

    Given:
        a = torch.tensor([[1.0, 2.0], [0.5, 0.1]], requires_grad=True)
        b = torch.tensor([[1.0, 2.0], [0.0, 0.3]])
    Bad:
        loss = (a - b).pow(2).sum(dim=1).sqrt().mean()
    Good:
        loss = ((a - b).pow(2).sum(dim=1) + 1e-12).sqrt().mean()
    """

    slug = "sqrt-at-zero"
    title = "slope of a root at 0"
    group = "math"
    remedies = ("clamp-or-eps", "double-where", "drop-sample", "larger-eps")

    def match(self, evidence: Evidence) -> Match | None:
        op = facts.op_of(evidence)
        exponent = facts.exponent(evidence)
        root = op in ROOTS or (op == "pow" and exponent is not None and exponent < 1)
        if not root or not facts.is_backward(evidence) or evidence.origin is None:
            return None
        zeros = facts.with_zeros(evidence)
        given = facts.inputs(evidence)
        # A spread of 0 shows in what feeds it only as "all the same", not as a 0.
        if zeros is None and op in ("std", "cdist", "pairwise_distance") and facts.largest_input(evidence) < 1e15:
            confidence, fact = 0.87, "its value there is 0"
        elif zeros is None:
            if given and facts.largest_input(evidence) > 0:
                return None
            confidence, fact = 0.6, "its inputs were not measured"
        else:
            confidence, fact = 0.91, f"it got an exact 0 at {zeros.n_zero} of {zeros.n_elements} places"
        power = f" with exponent {facts.number(exponent)}" if op == "pow" else ""
        return Match(
            facts.local(evidence, confidence),
            f"The derivative of {op}{power} is infinite at 0, and {fact}; the forward value is finite.",
            facts.input_facts(evidence),
        )
