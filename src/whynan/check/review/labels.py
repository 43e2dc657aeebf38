"""Labels and the ignored index against the number of classes that the head has."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node in relevant(context, "nll_loss_forward", "nll_loss2d_forward"):
        shape = context.node(node.inputs[0]).shape
        target = context.node(node.inputs[1]).measured
        if len(shape) < 2 or target is None:
            continue
        n, ignored = shape[1], int(node.attrs.get("ignore_index", -100))
        if target.hi < n // 2 and n > 3 and target.hi < n - 1:
            yield finding(
                "label-range",
                "note",
                f"the head has {n} classes, and the labels of these batches end at {target.hi:g}",
                node,
                value=f"{target.hi:g}",
            )
        if target.lo < 0 and target.lo != ignored:
            yield finding(
                "label-range",
                "error",
                f"a label is {target.lo:g}, and ignore_index is {ignored}",
                node,
                value=f"{target.lo:g}",
                cause="label-out-of-range",
            )
