from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence

# std * sqrt(fan_in) of usual initializations is 0.5 to 1.5; each layer multiplies its signal by about that.
LARGE_GAIN = 4.0
LARGE_WEIGHT = 8.0
SINGULAR = ("div", "sqrt", "norm", "rsqrt", "reciprocal", "log", "weight_norm")


class BadInitialization(Cause):
    """The weights start far too large (`torch.randn` for a wide layer has a gain of sqrt(fan_in)) or in a singular
    point (all zeros under a norm). Each layer multiplies the signal by the gain, and a few are enough to overflow.

    Symptoms:
        Non-finite at the first steps, or a loss that starts at millions and does not grow any more; no learning
        rate helps.

    Given:
        torch.manual_seed(0)
        x = torch.randn(4, 256)
    Bad:
        weights = [torch.randn(256, 256, requires_grad=True) for _ in range(40)]
        for w in weights:
            x = torch.relu(x @ w)
        loss = x.mean()
    Good:
        weights = [torch.nn.init.kaiming_normal_(torch.empty(256, 256)).requires_grad_() for _ in range(40)]
        for w in weights:
            x = torch.relu(x @ w)
        loss = x.mean()
    """

    slug = "bad-initialization"
    title = "bad initialization"
    group = "optimization"
    remedies = ("better-init", "lower-learning-rate", "clip-gradients", "warmup")

    def match(self, evidence: Evidence) -> Match | None:
        leaf = evidence.bad_leaf
        if leaf is not None and leaf.tensor.role in ("parameter", "buffer") and leaf.since_step == -1:
            # What is evaluated before any step may be a copy that other code has made.
            is_copy = evidence.symptom.stage == "validation"
            return Match(
                0.4 if is_copy or facts.is_class_weight(evidence) else 0.85,
                f"{leaf.tensor.name or 'A parameter'} was non-finite before the first step.",
                (f"{leaf.tensor.role}: {facts.describe(leaf.tensor)}",),
            )
        growth = growth_of(evidence)
        early = evidence.symptom.step <= 2
        large = self.large_weights(evidence)
        if facts.is_optimizer(evidence) or growth.diverged:
            # Too large a start and a run that grew from it: both are told, the growth first.
            return Match(0.6, self.sentence(large), large) if large and growth.diverged else None
        if facts.is_overflow(evidence):
            if large:
                half = facts.dtype_of(evidence) in ("float16",)
                return Match(0.75 if half else 0.93 if early else 0.7, self.sentence(large), large)
            return (
                Match(0.35, "It overflowed in the first steps, before any update could be blamed.", ())
                if early
                and not self.has_grown(evidence)
                and facts.extreme_tensor(evidence) is None
                and not facts.runs_in_half(evidence)
                else None
            )
        zero = next((t for t in facts.inputs(evidence) if t.role == "parameter" and t.n_zero == t.n_elements), None)
        if zero is not None and early and facts.op_of(evidence) in SINGULAR:
            return Match(
                0.75, f"{zero.name or 'A parameter'} starts as zeros, a singular point.", (facts.describe(zero),)
            )
        if large and early and evidence.origin is not None and facts.op_of(evidence) in facts.SINGULAR | {"exp"}:
            return Match(0.78, self.sentence(large), large)
        return None

    def large_weights(self, evidence: Evidence) -> tuple[str, ...]:
        """Return what shows that weights started too large."""
        history = evidence.history
        found = [f"{name}: std * sqrt(fan_in) = {gain:.3g} at the start (usual: 0.5 to 1.5)"
                 for name, gain in history.largest_gain_start[:3] if gain >= LARGE_GAIN]  # fmt: skip
        if history.weight_abs_max_start is not None and history.weight_abs_max_start > LARGE_WEIGHT:
            found.append(f"largest weight at the start: {facts.number(history.weight_abs_max_start)}")
        if evidence.symptom.step <= 2:
            # An update or two may have made them large: what they were at the start decides, where it is known.
            start = history.weight_abs_max_start
            found += [f"weight: {facts.describe(t)}" for t in facts.inputs(evidence)
                      if facts.is_huge_for_init(t) and (start is None or t.abs_max <= 10 * start)]  # fmt: skip
        return tuple(found)

    def has_grown(self, evidence: Evidence) -> bool:
        start, now = evidence.history.weight_abs_max_start, evidence.history.weight_abs_max_now
        return start is not None and now is not None and now > 100 * max(start, 1e-3)

    def sentence(self, large: tuple[str, ...]) -> str:
        return f"The weights started far larger than an initialization by fan-in makes them ({large[0]})."
