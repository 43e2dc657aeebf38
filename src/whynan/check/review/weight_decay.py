"""Weight decay that takes more of a weight in one step than training puts there."""

from collections.abc import Iterator

from whynan.check.result import Finding, Severity
from whynan.check.review.facts import StepFacts


def find(facts: StepFacts) -> Iterator[Finding]:
    for optimizer in facts.optimizers:
        place = optimizer.place
        for rate, decay in zip(optimizer.rates, optimizer.decays):
            if optimizer.kind in ("Adam", "RMSprop", "Adagrad", "LBFGS") or decay <= 0:
                continue
            share = rate * decay / max(1 - optimizer.momentum, 1e-3)
            if share >= 0.1:
                severity: Severity = "error" if rate * decay >= 2 or share >= 2 else "warning"
                yield Finding(
                    "weight-decay",
                    severity,
                    f"learning rate {rate:g} times weight decay {decay:g} takes {share:.2g} of every weight each step"
                    + (": it turns their sign, and they grow" if share >= 2 else ""),
                    value=f"{share:.3g}",
                    cause="excessive-regularization",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
