"""One step of the configured length, of a tenth and a hundredth of it, tried on the recorded batch."""

import math
from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts


def find(facts: StepFacts) -> Iterator[Finding]:
    if len(facts.rate_test) < 3 or not facts.optimizers:
        return
    (_, start), *tried = facts.rate_test
    rate, loss = tried[-1]
    place = facts.optimizers[0].place
    better = [r for r, value in tried[:-1] if math.isfinite(value) and value < start]
    if (not math.isfinite(loss) or loss > 2 * abs(start) + 1e-3) and better:
        yield Finding(
            "learning-rate",
            "warning",
            f"one step of learning rate {rate:g} takes this batch's loss from {start:.3g} to {loss:.3g}; with "
            f"{better[-1]:g} it falls"
            if facts.optimizers[0].rates
            else f"one step takes this batch's loss from {start:.3g} to {loss:.3g}; {better[-1]:g} of it lowers it",
            value=f"{rate:g}",
            cause="learning-rate-too-high",
            line=place.line if place else None,
            file=place.file if place else None,
        )
