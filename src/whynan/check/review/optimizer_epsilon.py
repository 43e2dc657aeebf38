"""The optimizer's epsilon against the type of its parameters."""

from collections.abc import Iterator

from whynan.check.ranges import SMALLEST
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts


def find(facts: StepFacts) -> Iterator[Finding]:
    for optimizer in facts.optimizers:
        place = optimizer.place
        for eps in sorted(set(optimizer.eps)):
            if eps == 0:
                yield Finding(
                    "optimizer-eps",
                    "error",
                    f"{optimizer.kind} divides by the root of the gradients' mean square plus eps, and eps is 0: a "
                    "parameter whose gradient is 0 becomes 0 / 0",
                    value="0",
                    cause="optimizer-epsilon",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
                continue
            for dtype in optimizer.dtypes:
                if eps < SMALLEST.get(dtype, 0.0):
                    yield Finding(
                        "optimizer-eps",
                        "error",
                        f"eps {eps:g} of {optimizer.kind} is 0 in {dtype}, whose smallest number is "
                        f"{SMALLEST[dtype]:.2g}",
                        value=f"{eps:g}",
                        cause="optimizer-epsilon",
                        line=place.line if place else None,
                        file=place.file if place else None,
                    )
