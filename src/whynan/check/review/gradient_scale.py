"""The first gradient against the weights that it changes."""

import math
from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts


def find(facts: StepFacts) -> Iterator[Finding]:
    for optimizer in facts.optimizers:
        place = optimizer.place
        rate = max(optimizer.rates, default=0.0)
        if math.isnan(optimizer.gradient_norm) and not optimizer.n_parameters:
            continue  # not known
        if not math.isfinite(optimizer.gradient_norm):
            yield Finding(
                "gradient-scale",
                "error",
                f"the first gradient is {optimizer.gradient_norm}",
                line=place.line if place else None,
                file=place.file if place else None,
            )
        elif not optimizer.rates and optimizer.weight_norm > 0:
            ratio = optimizer.gradient_norm / optimizer.weight_norm
            if ratio > 0.5:
                yield Finding(
                    "gradient-scale",
                    "warning",
                    f"an update of the first steps is {ratio:.2g} of the weights: it is {optimizer.gradient_norm:.3g} "
                    f"in size, the weights {optimizer.weight_norm:.3g}",
                    value=f"{ratio:.3g}",
                    cause="learning-rate-too-high",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
        elif optimizer.kind == "SGD" and optimizer.weight_norm > 0:
            ratio = rate * optimizer.gradient_norm / optimizer.weight_norm
            if ratio > 0.5:
                yield Finding(
                    "gradient-scale",
                    "warning",
                    f"the first update is {ratio:.2g} of the weights: learning rate {rate:g} times gradient norm "
                    f"{optimizer.gradient_norm:.3g}, weights' norm {optimizer.weight_norm:.3g}",
                    value=f"{ratio:.3g}",
                    cause="learning-rate-too-high",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
        if optimizer.n_parameters and optimizer.gradient_norm == 0:
            yield Finding(
                "gradient-scale",
                "warning",
                "the first gradient is 0: nothing is learned",
                line=place.line if place else None,
                file=place.file if place else None,
            )
