"""The learning rate of the first steps: 0, or rising at once to many times what it began with."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts


def find(facts: StepFacts) -> Iterator[Finding]:
    for optimizer in facts.optimizers:
        place = optimizer.place
        rates = optimizer.later_rates
        if rates and rates[0] == 0:
            yield Finding(
                "warmup",
                "note",
                "the first step has learning rate 0: the warm-up begins at 0 and not at its first step",
                value="0",
                line=place.line if place else None,
                file=place.file if place else None,
            )
        if len(rates) >= 2 and rates[0] > 0 and rates[1] > 9 * rates[0]:
            yield Finding(
                "warmup",
                "warning",
                f"the learning rate goes from {rates[0]:g} to {rates[1]:g} in one step: is the warm-up counted in "
                "epochs where steps were meant?",
                value=f"{rates[1]:g}",
                cause="learning-rate-too-high",
                line=place.line if place else None,
                file=place.file if place else None,
            )
