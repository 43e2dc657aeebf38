from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence, TensorSummary

# Fill values for "missing" (9.97e36, 1e20, float's largest) are this large; measured quantities are not.
FILL_VALUE = 1e18


def is_fill_value(tensor: TensorSummary) -> bool:
    """Return whether a batch's largest value stands for "missing"; what every sample reaches in one place does not."""
    return tensor.role == "batch" and tensor.abs_max >= FILL_VALUE > tensor.extra.get("all_reach", 0)


class BadInputValues(Cause):
    """The input of the model holds NaN or Inf before any operation has touched it: an empty cell in a table, a sensor
    that failed, a fill value for "missing" that means nothing to the model.

    Symptoms:
        The loss is NaN at one batch, another one for every shuffle, and from then on for good. Every activation
        of that sample is NaN, from the first layer on.

    Given:
        x = torch.tensor([[0.2, float("nan")], [0.4, 0.1]])
        model = nn.Linear(2, 1)
    Bad:
        loss = model(x).mean()
    Good:
        x = x[torch.isfinite(x).all(dim=1)]
        loss = model(x).mean()
    """

    slug = "bad-input-values"
    title = "the input holds NaN or Inf"
    group = "data"
    remedies = ("drop-sample", "normalize-inputs", "fix-labels")

    def match(self, evidence: Evidence) -> Match | None:
        leaf = evidence.bad_leaf
        if leaf is not None and leaf.tensor.role == "batch":
            # An operation of the dataset is known to have made it: then that operation is the better answer.
            made = facts.is_data(evidence) and facts.op_of(evidence) != "data"
            facts_found = (f"batch: {facts.describe(leaf.tensor)}", *((leaf.detail,) if leaf.detail else ()))
            return Match(
                0.6 if made else 0.95,
                f"The batch came with {leaf.tensor.n_nonfinite} non-finite input values; no operation of the step "
                "made them.",
                facts_found,
            )
        bad = next((t for t in evidence.batch.tensors if t.role == "batch" and t.n_nonfinite), None)
        if bad is not None:
            return Match(
                0.55 if evidence.intended_infinity or evidence.origin is not None else 0.85,
                f"The batch came with {bad.n_nonfinite} non-finite input values.",
                (f"batch: {facts.describe(bad)}",),
            )
        return self.match_value(evidence)

    def match_value(self, evidence: Evidence) -> Match | None:
        """Match finite values that mean nothing: a fill value, a raw input outside a function's domain."""
        extreme = facts.extreme_tensor(evidence)
        if extreme is not None and is_fill_value(extreme):
            return Match(
                0.94,
                f"The batch holds a value of {facts.number(extreme.abs_max)}: a fill value for missing data, not a "
                "measurement.",
                (f"batch: {facts.describe(extreme)}",),
            )
        first = facts.first(evidence)
        if first is None or first.role != "batch" or not facts.is_forward(evidence):
            return None
        op = facts.op_of(evidence)
        least = -1 if op == "log1p" else 0
        if op in ("log", "log2", "log10", "log1p", "sqrt") and first.min is not None and first.min < least:
            return Match(
                0.8,
                f"The input alone makes the argument of {op} {facts.number(first.min)}, less than {least}.",
                (facts.describe(first),),
            )
        return None
