"""Weight decay that takes more of a weight in one step than training puts there."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts


def find(facts: StepFacts) -> Iterator[Finding]:
    for optimizer in facts.optimizers:
        place = optimizer.place
        where = {"line": place.line if place else None, "file": place.file if place else None}
        for rate, decay in zip(optimizer.rates, optimizer.decays):
            if optimizer.kind in ("Adam", "RMSprop", "Adagrad", "LBFGS") or decay <= 0:
                continue
            share = rate * decay / max(1 - optimizer.momentum, 1e-3)
            if share >= 0.1:
                severity = "error" if rate * decay >= 2 or share >= 2 else "warning"
                yield Finding(
                    "weight-decay",
                    severity,  # type: ignore[arg-type]
                    f"learning rate {rate:g} times weight decay {decay:g} takes {share:.2g} of every weight each step"
                    + (": it turns their sign, and they grow" if share >= 2 else ""),
                    value=f"{share:.3g}",
                    cause="excessive-regularization",
                    **where,
                )  # type: ignore[arg-type]
