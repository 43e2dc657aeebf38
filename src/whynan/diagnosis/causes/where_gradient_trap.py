from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence


class WhereGradientTrap(Cause):
    """`where(ok, f(x), 0)` hides the bad values of f from the loss, but its derivative still goes through f: the branch
    that was not taken gets the gradient 0, and 0 times the infinite slope of f is NaN.

    Symptoms:
        The loss is finite and looks right, gradients are NaN from the first batch on in which the condition is
        False anywhere. A masked product shows the same.

    Given:
        x = torch.tensor([0.0, 0.5, 2.0], requires_grad=True)
    Bad:
        loss = torch.where(x > 0, torch.log(x), 0.0).sum()
    Good:
        safe = torch.where(x > 0, x, 1.0)
        loss = torch.where(x > 0, torch.log(safe), 0.0).sum()
    """

    slug = "where-gradient-trap"
    title = "gradient through the branch that `where` did not take"
    group = "math"
    remedies = ("double-where", "clamp-or-eps")

    def match(self, evidence: Evidence) -> Match | None:
        if facts.hides_missing(evidence) and evidence.bad_leaf is not None:
            return Match(
                0.97,
                "Values that are missing are left out of the loss after the computation, not before it: going back "
                "they get the gradient 0, and 0 times NaN is NaN.",
                (f"data: {facts.describe(evidence.bad_leaf.tensor)}", "the loss is finite, its gradient is not"),
            )
        if not facts.is_behind_where(evidence) or facts.is_overflow(evidence):
            return None
        op = facts.op_of(evidence)
        return Match(
            0.94,
            f"`where` leaves out the bad values of {op} in the forward pass; in the backward pass they get the "
            "gradient 0, "
            f"and 0 times the infinite slope of {op} is NaN.",
            ("a `where` lies between the operation and the loss", *facts.input_facts(evidence)),
        )
