import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence

PENALTY = re.compile(
    r"(?<![a-z])(l[12](_?(reg|penalty|term|decay))?|\w*regulari[sz]\w*|reg|\w+_reg|reg_\w+|ridge|lasso"
    r"|weight_?(norm|penalty|decay)|decay|penalty|orth\w*|spectral)(?![a-z])",
    re.IGNORECASE,
)
UPDATE = re.compile(r"[-+]=.*\b(lr|learning_rate|eta|alpha|rate)\b", re.IGNORECASE)

LEADING = 0.9
GROWN = 100
DETECTOR = re.compile(r"box|rpn|cls|classif|obj|anchor|loc(?![a-z])|centerness", re.IGNORECASE)


class ExcessiveRegularization(Cause):
    """Weight decay or a penalty on the weights is so strong that its own updates overshoot: a step multiplies the
    weights by 1 - lr * decay, and beyond lr * decay = 2 that is less than -1, so they grow.

    Symptoms:
        The data term of the loss stays modest while the penalty and the weights grow by a constant factor per
        step, with alternating signs.

    Given:
        torch.manual_seed(0)
        x = torch.randn(16, 4)
        y = torch.randn(16, 1)
        model = nn.Linear(4, 1)
    Bad:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=60.0)
        for _ in range(80):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    Good:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
        for _ in range(80):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """

    slug = "excessive-regularization"
    title = "weight decay or penalty too strong"
    group = "optimization"
    remedies = ("lower-learning-rate", "clip-gradients")

    def match(self, evidence: Evidence) -> Match | None:
        growth = growth_of(evidence)
        moved = growth.large or facts.is_overflow(evidence)
        optimizer = evidence.optimizer
        if optimizer is not None and optimizer.weight_decay and moved:
            lr = optimizer.lr or max(evidence.history.lr[-1:], default=0.0)
            factor = lr * optimizer.weight_decay
            if factor >= 1:
                return Match(
                    0.95 if factor >= 2 else 0.8,
                    f"Each step multiplies the weights by 1 - lr * weight_decay = {1 - factor:.3g}.",
                    (f"lr {facts.number(lr)}, weight_decay {facts.number(optimizer.weight_decay)}", *growth.facts()),
                )
        leading = leading_penalty(evidence) if growth.diverged else None
        if leading is not None:
            name, value, share = leading
            return Match(
                0.95,
                f"The penalty {name!r} is what grew: at least {100 * share:.3g} % of the loss in the last steps.",
                (f"loss term {name} in the last of them = {facts.number(value)}", *growth.facts()),
            )
        term = next((term for term in evidence.loss_terms if term.first_nonfinite), None)
        named = term.name if term is not None and is_penalty(term.name, evidence) else None
        source = evidence.origin.source if evidence.origin else None
        is_update = False
        if named is None and source is not None and facts.is_forward(evidence) and facts.is_overflow(evidence):
            # The line of the overflow itself adds up a penalty.
            words = f"{source.function or ''} {source.code or ''}"
            hit = PENALTY.search(words)
            named = hit.group(0) if hit and is_penalty(hit.group(0), evidence) else None
            # The data's gradient is in an update by hand too.
            is_update = bool(UPDATE.search(words))
        if named is None or not moved:
            return None
        return Match(
            0.93 if growth.diverged and term is not None else 0.4 if is_update else 0.7,
            f"The penalty {named!r} is what overflowed first: it grew faster than the data term.",
            (*(f"loss term {t.name} = {facts.number(t.value)}" for t in evidence.loss_terms), *growth.facts()),
        )


def is_penalty(name: str, evidence: Evidence) -> bool:
    """Return whether a name means a penalty; beside boxes and classes "reg" means regression."""
    if not PENALTY.search(name):
        return False
    names = " ".join((name, *(term.name for term in evidence.loss_terms)))
    return not ("reg" in name.lower() and "regul" not in name.lower() and DETECTOR.search(names))


def leading_penalty(evidence: Evidence) -> tuple[str, float, float] | None:
    """Return the penalty that was nearly all of the loss once it had grown, its last value and its least share."""
    names = {term.name for term in evidence.loss_terms}
    early = sorted(abs(value) for value in evidence.history.loss[:5])
    rows = [{n: row[n] for n in names} for row in evidence.extra.get("terms_before", ()) if names <= row.keys()]
    grown = [row for row in rows if sum(map(abs, row.values())) > GROWN * early[len(early) // 2]] if early else []
    for name in names if grown and len(names) > 1 else ():
        share = min(row[name] / sum(map(abs, row.values())) for row in grown)
        if share >= LEADING and is_penalty(name, evidence):
            return name, grown[-1][name], share
    return None
