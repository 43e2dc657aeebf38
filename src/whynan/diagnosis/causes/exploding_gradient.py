from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.causes.learning_rate_too_high import large_for
from whynan.diagnosis.growth import Growth, growth_of
from whynan.records import Evidence

RECURRENT = r"(?<![a-z])(rnn|lstm|gru|recurren\w*|cell|unroll\w*|timestep\w*|hidden_state|w_?hh|weight_hh\w*|bptt)"


class ExplodingGradient(Cause):
    """The gradient is a product of many factors, one for each layer or time step. Where they are larger than 1 on
    average, it grows exponentially with depth: finite loss, huge gradient, and one update ruins the weights.

    Symptoms:
        The gradient norm jumps by orders of magnitude within a step while the weights have hardly changed;
        recurrent networks on long sequences, deep networks without normalisation.

    Given:
        torch.manual_seed(0)
        x = torch.randn(4, 8)
        w = (0.9 * torch.randn(8, 8)).requires_grad_()
    Bad:
        h = x
        for _ in range(150):
            h = h @ w
        loss = h.pow(2).mean()
    Good:
        h = x
        for _ in range(150):
            h = torch.tanh(h @ w / torch.linalg.matrix_norm(w, 2).detach())
        loss = h.pow(2).mean()
    """

    slug = "exploding-gradient"
    title = "exploding gradient"
    group = "optimization"
    remedies = ("clip-gradients", "lower-learning-rate", "better-init", "warmup")

    def match(self, evidence: Evidence) -> Match | None:
        growth = growth_of(evidence)
        recurrent = self.is_recurrent(evidence)
        confidence = self.confidence(evidence, growth, recurrent)
        if confidence is None:
            return None
        repeated = " A recurrent network multiplies by the same weights at every time step." if recurrent else ""
        if growth.jumped:
            said = f"The gradient norm jumped {growth.jump:.3g}-fold within a step"
        elif growth.large:
            said = f"Gradients and activations grew until they overflowed: {growth.sentence()}"
        else:
            said = "Finite values were multiplied up until they left the range of the dtype"
        return Match(confidence, f"{said}.{repeated}", (*growth.facts(), *facts.input_facts(evidence)))

    def is_recurrent(self, evidence: Evidence) -> bool:
        names = " ".join(name for name, _ in evidence.history.largest_growth)
        return facts.path_mentions(evidence, RECURRENT) or "weight_hh" in names or "lstm" in names.lower()

    def confidence(self, evidence: Evidence, growth: Growth, recurrent: bool) -> float | None:
        large_lr = large_for(evidence.optimizer, evidence.history.lr) >= 1
        overflow = facts.is_overflow(evidence)
        half = facts.dtype_of(evidence) == "float16"
        if growth.jumped and (overflow or evidence.origin is None or facts.is_backward(evidence)):
            return 0.84
        if growth.diverged:
            return 0.91 if recurrent and not large_lr else 0.84 if recurrent else 0.68
        if overflow and facts.is_backward(evidence) and not half:
            return 0.85 if recurrent else 0.72
        if overflow and not half:
            return 0.8 if recurrent and evidence.symptom.step > 2 else 0.5
        if growth.large:
            return 0.45
        return None
