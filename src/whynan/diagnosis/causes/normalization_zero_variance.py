import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

ERROR = re.compile(r"expected more than 1 (value|spatial)", re.IGNORECASE)
BY_HAND = re.compile(r"norm|standardi|whiten|\bmu\b|mean|running|advantage|z_?score", re.IGNORECASE)
OPS = ("div", "std", "var", "sqrt", "rsqrt", "reciprocal", "pow", "norm")


class NormalizationZeroVariance(Cause):
    """A normalisation (batch, layer, instance or group norm, or one by hand) met a group of values that are all the
    same: their variance is 0, and without an eps that the dtype can hold x - mean is divided by 0.

    Symptoms:
        NaN behind a normalisation layer: a batch of one, a 1x1 feature map under instance norm, a dead channel,
        a constant sample; or only in the gradient, where eps stands outside the root.

    Given:
        x = torch.ones(2, 4, requires_grad=True)
    Bad:
        loss = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)).mean()
    Good:
        variance = x.var(1, keepdim=True, unbiased=False)
        loss = ((x - x.mean(1, keepdim=True)) * torch.rsqrt(variance + 1e-5)).mean()
    """

    slug = "normalization-zero-variance"
    title = "normalisation of values that are all the same"
    group = "architecture"
    remedies = ("larger-eps", "larger-batch-or-groupnorm", "clamp-or-eps", "drop-sample")

    def match(self, evidence: Evidence) -> Match | None:
        if evidence.error and ERROR.search(evidence.error):
            return Match(0.9, f"The step ended with: {evidence.error.splitlines()[0]}", (evidence.error[:200],))
        if evidence.origin is None or facts.is_overflow(evidence) or facts.is_optimizer(evidence):
            return None
        # A dataset's transform is about one sample; that is the constant input's.
        if facts.is_data(evidence):
            return None
        op = facts.op_of(evidence)
        layer = facts.is_norm_layer(evidence)
        if layer and evidence.zero_variance:
            confidence = 0.94
        elif layer and (op in OPS and facts.with_zeros(evidence) is not None):
            confidence = 0.92
        elif evidence.zero_variance and op in OPS:
            confidence = 0.92 if BY_HAND.search(facts.words_of(evidence)) else 0.82
        elif layer and facts.largest_input(evidence) < 1e10:
            confidence = 0.5
        else:
            return None
        name = evidence.origin.module_type or (f"the normalisation in {evidence.origin.source.function or 'this line'}")
        eps = evidence.origin.args.get("eps")
        said = f" (its eps is {facts.number(float(eps))})" if isinstance(eps, (int, float)) else ""
        return Match(
            facts.local(evidence, confidence),
            f"{name} divides by the spread of values that are all the same{said}; their variance is 0.",
            facts.input_facts(evidence),
        )
