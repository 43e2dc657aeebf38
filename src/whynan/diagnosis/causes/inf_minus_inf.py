from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

OPS = ("sub", "add", "div", "mul", "sum", "mean", "cumsum", "matmul", "mm", "bmm", "addmm", "logsumexp", "var", "std",
       "rsub", "dot", "linear", "einsum", "addcmul", "lerp", "mse_loss", "l1_loss", "smooth_l1_loss")  # fmt: skip


class InfMinusInf(Cause):
    """Infinities that were there on purpose (a best score that starts at inf, a bound, a mask) met in an operation that
    has no value for them: inf - inf, inf / inf, 0 * inf.

    Symptoms:
        NaN although nothing overflowed: each operand alone was meant.

    Given:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        bound = torch.tensor([3.0, float("inf")])
        lower = torch.tensor([0.0, float("inf")])
    Bad:
        loss = (x * (bound - lower)).sum()
    Good:
        bounded = torch.isfinite(bound)
        loss = (x[bounded] * (bound[bounded] - lower[bounded])).sum()
    """

    slug = "inf-minus-inf"
    title = "invalid operation on infinities"
    group = "math"
    remedies = ("mask-fix", "clamp-or-eps", "double-where", "stable-loss")

    def match(self, evidence: Evidence) -> Match | None:
        op = facts.op_of(evidence)
        given = facts.inputs(evidence)
        infinite = [tensor for tensor in given if tensor.n_posinf + tensor.n_neginf]
        if op not in OPS or not infinite or not facts.output_has_nan(evidence):
            return None
        both_signs = any(t.n_posinf and t.n_neginf for t in infinite)
        times_zero = op in ("mul", "mm", "matmul", "bmm", "linear", "addmm", "einsum", "dot", "addcmul") and any(
            tensor.n_zero for tensor in given
        )
        if len(infinite) < 2 and not both_signs and not times_zero:
            return None
        kind = {"div": "inf / inf", "mul": "0 * inf" if times_zero else "inf * inf"}.get(op, "inf - inf")
        return Match(
            0.7 if evidence.masked_rows else 0.88,
            f"{op} has no value for what it got: {kind} is NaN. The infinities were in its inputs already.",
            facts.input_facts(evidence),
        )
