from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

# The smallest positive number that the dtype can tell from 0.
SMALLEST = {"float16": 6e-8, "bfloat16": 1e-38, "float32": 1e-38, "float64": 1e-300}


class OptimizerEpsilon(Cause):
    """An adaptive optimizer divides by sqrt(v) + eps. With eps = 0, or one that is 0 in the dtype of the state (1e-8 in
    float16), a parameter whose gradient was always 0 gets 0 / 0: an unused embedding row, a dead unit.

    Symptoms:
        Loss and gradients are finite, weights are NaN right after an optimizer step, often the first.

    Given:
        table = nn.Embedding(4, 2)
        ids = torch.tensor([0, 1])
    Bad:
        optimizer = torch.optim.RMSprop(table.parameters(), lr=1e-3, eps=0.0)
        table(ids).sum().backward()
        optimizer.step()
        loss = table(torch.tensor([2, 3])).sum()
    Good:
        optimizer = torch.optim.RMSprop(table.parameters(), lr=1e-3, eps=1e-8)
        table(ids).sum().backward()
        optimizer.step()
        loss = table(torch.tensor([2, 3])).sum()
    """

    slug = "optimizer-epsilon"
    title = "the optimizer's eps is 0 or too small"
    group = "optimization"
    remedies = ("larger-eps", "full-precision", "clamp-or-eps")

    def match(self, evidence: Evidence) -> Match | None:
        optimizer = evidence.optimizer
        if optimizer is None:
            return self.match_by_hand(evidence)
        if optimizer.eps is None or evidence.custom_input_nonfinite:
            return None
        dtype = facts.dtype_of(evidence) if facts.is_optimizer(evidence) else evidence.precision.parameters
        if optimizer.eps > SMALLEST.get(dtype, 1e-38) and not (dtype == "float16" and optimizer.eps < 1e-7):
            return None
        zeros = sum(optimizer.state_zeros.values())
        leaf = evidence.bad_leaf
        if facts.is_optimizer(evidence):
            confidence = 0.95
        elif evidence.origin is None and (
            evidence.symptom.what == "parameter" or (leaf and leaf.tensor.role == "parameter")
        ):
            confidence = 0.9 if zeros else 0.7
        else:
            return None
        in_dtype = "" if optimizer.eps == 0 else f", which is 0 in {dtype}"
        return Match(
            confidence,
            f"{optimizer.name} divides by the root of its state plus eps = {facts.number(optimizer.eps)}{in_dtype}; "
            "where the state is 0 that is 0 / 0.",
            (
                f"eps = {facts.number(optimizer.eps)}",
                *(f"{name}: {count} exact zeros" for name, count in optimizer.state_zeros.items() if count),
                *facts.input_facts(evidence),
            ),
        )

    def match_by_hand(self, evidence: Evidence) -> Match | None:
        """Match an update of the script's own that divides a moment element by element; a norm is one number."""
        divisor = facts.with_zero_divisor(evidence)
        first = facts.first(evidence)
        if not facts.is_optimizer(evidence) or divisor is None or first is None or divisor.n_elements < 2:
            return None
        if facts.op_of(evidence) == "div" and first.shape != divisor.shape:
            return None
        return Match(
            0.94,
            f"The update divides by a state that is exactly 0 at {divisor.n_zero} of {divisor.n_elements} places, with "
            "no eps beside it.",
            facts.input_facts(evidence),
        )
