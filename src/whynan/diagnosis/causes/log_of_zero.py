from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence, TensorSummary

LOGS = ("log", "log2", "log10", "xlogy", "xlog1py", "logit", "log1p", "logdet", "slogdet", "logaddexp", "logcumsumexp")


class LogOfZero(Cause):
    """A logarithm got an exact 0, mostly a probability that rounding took to 0 or 1: sigmoid(-104) is 0 in float32, and
    1 - sigmoid(17) is too. The value is -inf, the slope infinite.

    Symptoms:
        The loss is inf, or NaN where -inf meets a factor 0, often late in training when the model has become
        confident and the loss looks excellent.

    Given:
        logit = torch.tensor([-2.0, 40.0], requires_grad=True)
        y = torch.tensor([0.0, 0.0])
    Bad:
        p = torch.sigmoid(logit)
        loss = -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()
    Good:
        loss = F.binary_cross_entropy_with_logits(logit, y)
    """

    slug = "log-of-zero"
    title = "logarithm of an exact 0"
    group = "math"
    remedies = ("stable-loss", "clamp-or-eps", "double-where", "drop-sample")

    def match(self, evidence: Evidence) -> Match | None:
        op = facts.op_of(evidence)
        if op not in LOGS or evidence.origin is None or facts.is_overflow(evidence):
            return None
        argument = self.argument(evidence)
        if argument is None:
            # Nothing was measured: a logarithm that is not finite met 0 more often than anything else.
            return Match(facts.local(evidence, 0.5), f"{op} gave a non-finite value.", facts.input_facts(evidence))
        count = self.count(op, argument)
        if not count:
            return None
        below = argument.n_negative and op in ("log", "log2", "log10")
        confidence = 0.45 if below and facts.output_has_nan(evidence) else 0.9
        slope = "its slope there is infinite" if facts.is_backward(evidence) else "it is -inf there"
        return Match(
            facts.local(evidence, confidence),
            f"{op} got {'an exact 0' if op != 'log1p' else 'an exact -1'} {count} times of "
            f"{argument.n_elements}; {slope}.",
            facts.input_facts(evidence),
        )

    def argument(self, evidence: Evidence) -> TensorSummary | None:
        """Return the tensor under the logarithm; in a backward op that is whichever holds the zeros."""
        if facts.is_backward(evidence):
            return facts.with_zeros(evidence) or facts.first(evidence)
        given = facts.inputs(evidence)
        if facts.op_of(evidence) in ("xlogy", "xlog1py") and len(given) > 1:
            return given[1]
        return given[0] if given else None

    def count(self, op: str, argument: TensorSummary) -> int:
        if op in ("log1p", "xlog1py"):
            return 1 if argument.min == -1 else 0
        if op == "logit":
            return int(argument.n_zero or argument.max == 1)
        return int(argument.n_zero)
