from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

SPREAD = r"std|var\b|norm|standardi|scale|min\(|max\(|ptp|z_?score|whiten"
OPS = ("div", "std", "var", "reciprocal", "rsqrt", "sqrt", "norm", "pow")


class ConstantInput(Cause):
    """A sample has one value everywhere (a black or overexposed image, a dead sensor), and standardizing it divides by
    its spread, 0.

    Symptoms:
        A sample is NaN as a whole as soon as it leaves the dataset's transform, or after the first
        normalisation; another batch for every shuffle.

    Given:
        image = torch.full((4, 4), 1.0)
        model = nn.Linear(4, 1)
    Bad:
        x = (image - image.mean()) / image.std()
        loss = model(x).mean()
    Good:
        x = (image - image.mean()) / (image.std() + 1e-6)
        loss = model(x).mean()
    """

    slug = "constant-input"
    title = "a sample with one value everywhere"
    group = "data"
    remedies = ("clamp-or-eps", "drop-sample", "larger-eps")

    def match(self, evidence: Evidence) -> Match | None:
        constant = evidence.batch.constant_samples
        op = facts.op_of(evidence)
        spread = evidence.zero_variance or (facts.mentions(evidence, SPREAD) and not varies(evidence))
        if facts.is_data(evidence) and op in OPS and spread and not facts.is_overflow(evidence):
            return Match(
                0.94,
                "The dataset's own transform divides a sample by its spread, which is 0: all its values are the same.",
                facts.input_facts(evidence),
            )
        if constant and (evidence.zero_variance or op in OPS or facts.is_norm_layer(evidence)):
            if facts.is_overflow(evidence):
                return None
            return Match(
                facts.local(evidence, 0.93 if evidence.zero_variance else 0.75),
                f"{len(constant)} sample(s) of the batch have one value everywhere, so their spread is 0.",
                (f"constant samples at positions {', '.join(map(str, constant[:8]))}", *facts.input_facts(evidence)),
            )
        return self.match_whole_sample(evidence)

    def match_whole_sample(self, evidence: Evidence) -> Match | None:
        """Match a sample that came out of the dataset as NaN throughout: 0 / 0 does that, a missing value does not."""
        leaf = evidence.bad_leaf
        if leaf is None or leaf.tensor.role != "batch" or len(leaf.tensor.shape) < 3 or not leaf.tensor.shape[0]:
            return None
        per_sample = leaf.tensor.n_elements // leaf.tensor.shape[0]
        if not per_sample or not leaf.tensor.n_nan or leaf.tensor.n_nan % per_sample:
            return None
        return Match(
            0.6,
            f"{leaf.tensor.n_nan // per_sample} sample(s) are NaN throughout, as standardizing a constant one "
            "makes them.",
            (f"batch: {facts.describe(leaf.tensor)}",),
        )


def varies(evidence: Evidence) -> bool:
    """Return whether one number 0 divided a sample that is not the same everywhere: that number is no spread of it."""
    given = facts.inputs(evidence)
    if facts.op_of(evidence) != "div" or len(given) != 2 or given[1].n_elements != 1:
        return False
    return given[0].n_elements > 1 and given[0].n_nonfinite == 0 and given[0].min != given[0].max
