"""The first loss against that of a model that knows nothing."""

import math
from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node in relevant(context, "nll_loss_forward", "nll_loss2d_forward"):
        shape, measured = context.node(node.inputs[0]).shape, node.measured
        if len(shape) < 2 or measured is None or node.attrs.get("reduction", 1) != 1:
            continue
        n = shape[1]
        fresh = math.log(n)
        if n > 1 and measured.hi > 3 * fresh + 1:
            yield finding(
                "initial-loss",
                "warning",
                f"the cross-entropy of the second step is {measured.hi:.3g}; a fresh model with {n} classes "
                "shows "
                f"log({n}) = {fresh:.3g}: the output layer or the inputs are too large",
                node,
                value=f"{measured.hi:.4g}",
                cause="bad-initialization",
            )
    if facts.losses and not math.isfinite(facts.losses[0]):
        yield Finding("initial-loss", "error", f"the very first loss is {facts.losses[0]}", value=str(facts.losses[0]))
