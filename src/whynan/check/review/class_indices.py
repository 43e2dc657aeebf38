"""A regression loss on class indices."""

from collections.abc import Iterator

from whynan.check.dtypes import is_float
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node in relevant(context, "mse_loss", "smooth_l1_loss", "huber_loss"):
        target = context.maker(node.inputs[1])
        measured = target.measured
        if is_float(target.dtype) or target.dtype == "bool" or measured is None:
            continue
        if measured.lo >= 0 and 2 <= measured.hi <= 1000:
            yield finding(
                "regression-on-classes",
                "note",
                f"{node.op} gets whole numbers {measured.lo:g} to {measured.hi:g} for its target: are they "
                "classes? "
                "A regression takes class 2 to lie between 1 and 3",
                node,
                cause="loss-input-mismatch",
            )
