import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence, TensorSummary

ERROR = re.compile(
    r"elements of (input|target) should be between 0 and 1|expects? (log-?)?probabilit|entry/entries of var",
    re.IGNORECASE,
)
PROBABILITIES = ("binary_cross_entropy", "bce", "bceloss")
LOG_PROBABILITIES = ("nll_loss", "kl_div", "ctc_loss")


class LossInputMismatch(Cause):
    """A loss got something else than it is made for: logits where it takes probabilities, probabilities where it takes
    log-probabilities, a raw output where it takes a positive rate or variance.

    Symptoms:
        log of a negative number at step 0, an error about values outside [0, 1], or a loss that falls below its
        lowest possible value and goes to -inf.

    Given:
        logit = torch.tensor([[-1.5, 2.0]], requires_grad=True)
        y = torch.tensor([[0.0, 1.0]])
    Bad:
        loss = -(y * torch.log(logit) + (1 - y) * torch.log(1 - logit)).mean()
    Good:
        loss = F.binary_cross_entropy_with_logits(logit, y)
    """

    slug = "loss-input-mismatch"
    title = "the loss got what it is not made for"
    group = "loss"
    remedies = ("stable-loss", "fix-labels", "clamp-or-eps")

    def match(self, evidence: Evidence) -> Match | None:
        if evidence.error and ERROR.search(evidence.error):
            return Match(0.9, f"The step ended with: {evidence.error.splitlines()[0]}", (evidence.error[:200],))
        name = (evidence.loss_function or "").lower()
        prediction = evidence.loss_inputs[0] if evidence.loss_inputs else None
        given: tuple[str, ...] = (f"loss: {name}",) if name else ()
        if prediction is not None:
            given += (f"prediction: {facts.describe(prediction)}",)
        if evidence.logits_as_probabilities and (name in PROBABILITIES or self.is_outside(evidence)):
            said = name if name in PROBABILITIES else "The loss"
            sure = name in PROBABILITIES or facts.mentions(evidence, r"bce|cross|entropy|nll|likelihood|\b1(\.0*)? - ")
            return Match(
                0.95 if sure else 0.88,
                f"{said} takes probabilities and got numbers that no softmax or sigmoid made.",
                (*given, *facts.input_facts(evidence)),
            )
        loss = min((value for value in evidence.history.loss if value == value), default=0.0)
        if name == "nll_loss" and loss < 0 and len(evidence.loss_terms) < 2:
            said = f"nll_loss fell to {facts.number(loss)}; of log-probabilities it is never below 0"
            return Match(0.95, f"{said}: it got scores that no log_softmax has made.", given)
        if prediction is None or prediction.min is None or prediction.max is None:
            return None
        found = self.mismatch(evidence, name, prediction)
        return Match(found[0], found[1], given) if found else None

    def mismatch(self, evidence: Evidence, name: str, p: TensorSummary) -> tuple[float, str] | None:
        low, high = p.min or 0.0, p.max or 0.0
        loss = evidence.history.loss
        unbounded = bool(loss) and min((value for value in loss if value == value), default=0.0) < 0
        if name in PROBABILITIES and (low < 0 or high > 1):
            return 0.94, f"{name} takes probabilities and got {facts.number(low)} to {facts.number(high)}."
        target = evidence.loss_inputs[1] if len(evidence.loss_inputs) > 1 else None
        logs = facts.op_of(evidence) in ("kl_div", "xlogy", "log")
        if name == "kl_div" and logs and target is not None and (target.min or 0) < 0:
            return 0.95, (
                f"kl_div takes probabilities as target and got {facts.number(target.min)} to "
                f"{facts.number(target.max)}: softmax them, or say log_target=True for log-probabilities."
            )
        if name in LOG_PROBABILITIES and high > 1e-3:
            confidence = 0.92 if unbounded and growth_of(evidence).large else 0.6 if name == "ctc_loss" else 0.5
            if facts.op_of(evidence) not in LOG_PROBABILITIES and not unbounded:
                return None
            return confidence, (
                f"{name} takes log-probabilities, which are never above 0, and got up to {facts.number(high)}; "
                "it has no lower bound then."
            )
        if name.startswith("poisson_nll") and high > facts.exp_limit(p.dtype):
            return 0.9, f"{name} takes the logarithm of a rate and got {facts.number(high)}, which looks like a rate."
        if name.startswith("poisson_nll") and low < 0 and facts.op_of(evidence) == "log":
            return 0.93, f"{name} with log_input=False takes rates, and got {facts.number(low)}."
        if (
            name.startswith("gaussian_nll")
            and len(evidence.loss_inputs) > 2
            and (evidence.loss_inputs[2].min or 0.0) <= 0
        ):
            return 0.9, f"{name} takes a positive variance and got {facts.number(evidence.loss_inputs[2].min)}."
        return None

    def is_outside(self, evidence: Evidence) -> bool:
        """Return whether the logarithm at the origin got a negative number: p, or 1 - p, of what is no probability."""
        first = facts.first(evidence)
        return first is not None and first.n_negative > 0
