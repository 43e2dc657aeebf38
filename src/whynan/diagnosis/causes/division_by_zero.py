from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

DIVISIONS = ("div", "reciprocal", "rsqrt", "remainder", "fmod", "addcdiv")
# The backward of a decomposition divides by differences of eigenvalues or by pivots.
DECOMPOSITIONS = ("svd", "linalg_svd", "eigh", "linalg_eigh", "linalg_eig", "inverse", "linalg_inv", "linalg_inv_ex",
                  "linalg_solve", "linalg_solve_ex", "linalg_qr", "linalg_cholesky", "linalg_cholesky_ex")  # fmt: skip


class DivisionByZero(Cause):
    """Something was divided by an exact 0, or by a number so small that the quotient leaves the range of the dtype: a
    count of matches, an area, a norm, a sum of weights that can all be 0.

    Symptoms:
        NaN (0 / 0) or inf at a batch where a count, a sum or a norm happens to be 0: an empty mask under a Dice
        loss, no positive anchor, identical vectors.

    Given:
        p = torch.zeros(4, requires_grad=True)
        y = torch.zeros(4)
    Bad:
        loss = 1 - 2 * (p * y).sum() / (p.sum() + y.sum())
    Good:
        loss = 1 - (2 * (p * y).sum() + 1e-6) / (p.sum() + y.sum() + 1e-6)
    """

    slug = "division-by-zero"
    title = "division by 0"
    group = "math"
    remedies = ("clamp-or-eps", "skip-empty", "double-where", "drop-sample")

    def match(self, evidence: Evidence) -> Match | None:
        leaf = evidence.bad_leaf.tensor if evidence.bad_leaf is not None else None
        if leaf is not None and leaf.role == "buffer" and facts.is_class_weight(evidence):
            return Match(
                0.9,
                f"{leaf.name} holds Inf for {leaf.n_posinf} of {leaf.n_elements} classes since before the first step: "
                "1 / frequency of a class that never occurs.",
                (f"buffer: {facts.describe(leaf)}",),
            )
        op = facts.op_of(evidence)
        exponent = facts.exponent(evidence)
        negative_power = op == "pow" and exponent is not None and exponent < 0
        if op in DECOMPOSITIONS:
            return Match(
                facts.local(evidence, 0.6),
                f"The {'derivative of ' if facts.is_backward(evidence) else ''}{op} divides by pivots or by "
                "differences of "
                "singular values, and one of them is 0.",
                facts.input_facts(evidence),
            )
        direction = facts.first(evidence)
        if op == "weight_norm" and direction is not None and direction.n_zero:
            return Match(
                facts.local(evidence, 0.7),
                "Weight normalisation divides each row of the weight by its norm, and a row of zeros has the norm 0.",
                facts.input_facts(evidence),
            )
        if op not in DIVISIONS and not negative_power:
            return None
        divisor = facts.divisor(evidence)
        if facts.is_backward(evidence) or op == "addcdiv":
            divisor = facts.with_zeros(evidence) or divisor
        if divisor is None:
            return Match(facts.local(evidence, 0.5), f"{op} gave a non-finite value.", facts.input_facts(evidence))
        if divisor.n_zero:
            other = facts.first(evidence)
            both = op == "div" and other is not None and other.n_zero and facts.output_has_nan(evidence)
            return Match(
                facts.local(evidence, 0.88),
                f"The divisor is exactly 0 at {divisor.n_zero} of {divisor.n_elements} places"
                f"{', and so is the dividend: 0 / 0' if both else ''}.",
                facts.input_facts(evidence),
            )
        smallest = divisor.abs_min_nonzero
        if smallest is not None and smallest < 1e-15 and facts.largest_input(evidence) / smallest > 1e30:
            return Match(
                facts.local(evidence, 0.8),
                f"The divisor goes down to {facts.number(smallest)}; the quotient leaves the range of the dtype.",
                facts.input_facts(evidence),
            )
        return None
