from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.causes.bad_input_values import is_fill_value
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence, TensorSummary


class ExtremeInputScale(Cause):
    """Features or targets come in their own units (euros, hertz, seconds since 1970): thousands or millions where
    layers and step sizes are made for values around 1. Products overflow, or the first updates are a million times
    too large.

    Symptoms:
        The loss starts huge and grows by orders of magnitude per step, or `exp` overflows at step 0. A model
        that trains on normalised data does not on the raw.

    Given:
        torch.manual_seed(0)
        x = torch.rand(16, 3) * 1e5
        y = torch.rand(16, 1)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    Bad:
        for _ in range(30):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    Good:
        x = (x - x.mean(0)) / x.std(0)
        for _ in range(30):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """

    slug = "extreme-input-scale"
    title = "inputs or targets of an extreme size"
    group = "data"
    remedies = ("normalize-inputs", "lower-learning-rate", "clip-gradients", "drop-sample")

    def match(self, evidence: Evidence) -> Match | None:
        extreme = facts.extreme_tensor(evidence)
        if extreme is None:
            return None
        growth = growth_of(evidence)
        op = facts.op_of(evidence)
        if is_fill_value(extreme):
            return Match(0.6, self.sentence(extreme), (f"{extreme.role}: {facts.describe(extreme)}",))
        few = bool(evidence.samples) and len(evidence.samples) <= 2 < (evidence.batch.size or 0)
        if growth.diverged or growth.large:
            confidence = 0.93 if extreme.abs_max > 1e4 else 0.86
        elif op.startswith("exp") or op in ("sinh", "cosh"):
            confidence = 0.8
        elif facts.is_overflow(evidence):
            confidence = 0.8 if few else 0.92
        elif op.startswith("log") or op == "div":
            # A saturated sigmoid or softmax: the scale may be behind it, the operation is what fails.
            confidence = 0.55
        else:
            return None
        return Match(
            confidence,
            self.sentence(extreme),
            (f"{extreme.role}: {facts.describe(extreme)}", *growth.facts()),
        )

    def sentence(self, extreme: TensorSummary) -> str:
        kind = "targets" if extreme.role == "target" else "inputs"
        size = facts.number(extreme.abs_max)
        return f"The {kind} reach {size}; layers and step sizes are made for values around 1."
