from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import Growth, growth_of
from whynan.records import Evidence, OptimizerFacts

# From where on a learning rate is large for its optimizer, by the start of the name; what tutorials use lies 3 to 10
# times below.
LARGE = {"adagrad": 0.1, "adadelta": 5.0, "adam": 0.008, "nadam": 0.008, "radam": 0.008, "lamb": 0.02, "rmsprop": 0.008,
         "lion": 0.002, "sgd": 0.05, "asgd": 0.05, "rprop": 0.1, "lbfgs": 1.0, "adafactor": 0.05}  # fmt: skip


def large_for(optimizer: OptimizerFacts | None, history_lr: tuple[float, ...]) -> float:
    """Return the learning rate as a multiple of what is large for its optimizer; 0 where it is not known."""
    lr = max(history_lr[-20:], default=0.0) or (optimizer.lr if optimizer and optimizer.lr else 0.0)
    if not lr:
        return 0.0
    name = optimizer.name.lower() if optimizer else ""
    limit = next((limit for start, limit in LARGE.items() if name.startswith(start)), 0.05)
    if optimizer is not None and optimizer.momentum and 0 < optimizer.momentum < 1 and name.startswith("sgd"):
        # Momentum multiplies the step by 1 / (1 - momentum) in the long run; half of that is common practice.
        limit /= max(1.0, 0.5 / (1 - optimizer.momentum))
    return lr / limit


class LearningRateTooHigh(Cause):
    """The updates overshoot: each step lands farther from the minimum than it started, loss, gradients and weights grow
    together for some steps, until something overflows. Which operation it is hardly matters.

    Symptoms:
        The loss rises by a factor per step, smoothly, then inf and NaN; weights are many times their start. A
        tenth of the learning rate, or a warmup, trains.

    Given:
        torch.manual_seed(0)
        x = torch.randn(64, 4)
        y = x.sum(1, keepdim=True)
        model = nn.Linear(4, 1)
    Bad:
        optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
        for _ in range(100):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    Good:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(100):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """

    slug = "learning-rate-too-high"
    title = "learning rate too high"
    group = "optimization"
    remedies = ("lower-learning-rate", "warmup", "clip-gradients", "normalize-inputs")

    def match(self, evidence: Evidence) -> Match | None:
        growth = growth_of(evidence)
        large = large_for(evidence.optimizer, evidence.history.lr)
        confidence = self.confidence(evidence, growth, large)
        momentum = evidence.optimizer.momentum if evidence.optimizer else None
        if momentum is not None and momentum >= 1 and growth.large:
            return Match(
                0.95,
                f"With a momentum of {facts.number(momentum)} an update carries all of the one before on, and more: "
                f"steps grow without end, whatever the learning rate. Measured: {growth.sentence()}.",
                (f"momentum {facts.number(momentum)}", *growth.facts()),
            )
        if confidence is None:
            return None
        name = evidence.optimizer.name if evidence.optimizer else "the optimizer"
        lr = max(evidence.history.lr[-20:], default=None) or (evidence.optimizer.lr if evidence.optimizer else None)
        said = f"With a learning rate of {facts.number(lr)} for {name}" if lr else "Step by step"
        tail = " That is a large one for this optimizer." if large >= 1 else ""
        grown = evidence.history.largest_growth[:3]
        grew = f"the run grew before it failed: {growth.sentence()}"
        if not growth.facts():
            grew = "finite values grew until they left the range of the dtype"
        return Match(
            confidence,
            f"{said}, {grew}.{tail}",
            (
                *growth.facts(),
                *((f"learning rate {facts.number(lr)} ({name})",) if lr else ()),
                *self.schedule(evidence),
                *(f"{parameter} grew {times:.3g}-fold" for parameter, times in grown if times >= 5),
            ),
        )

    def confidence(self, evidence: Evidence, growth: Growth, large: float) -> float | None:
        if growth.diverged:
            return 0.9 if large >= 1 else 0.75
        overflow = facts.is_overflow(evidence)
        if growth.large and large >= 1:
            # Too few steps to speak of a trend, but with this step size a few are enough.
            return 0.86 if overflow or large >= 5 else 0.7
        if growth.large and overflow:
            return 0.55
        if large >= 10 and evidence.symptom.step > 0 and (overflow or evidence.origin is None):
            return 0.75
        if overflow and large >= 1 and evidence.symptom.step > 2:
            return 0.5
        if overflow and evidence.optimizer is None and evidence.symptom.step > 0 and facts.is_forward(evidence):
            return 0.52  # updates by hand: neither step size nor growth is known, the experiment tells
        if growth.loss >= 50 and growth.n_risen >= 5 and large >= 1:
            return 0.6
        return None

    def schedule(self, evidence: Evidence) -> tuple[str, ...]:
        """Return the rise of the learning rate itself, where a schedule made one."""
        lr = evidence.history.lr
        if len(lr) < 2 or lr[-1] <= 3 * min(lr[: max(1, len(lr) // 2)]):
            return ()
        return (f"learning rate rose from {facts.number(min(lr))} to {facts.number(lr[-1])}",)
