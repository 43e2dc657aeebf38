"""A regression loss on class indices."""

from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import is_float
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node, operand in _regressions(context):
        target = context.maker(operand)
        measured = target.measured
        if is_float(target.dtype) or target.dtype == "bool" or measured is None:
            continue
        if measured.lo >= 0 and 2 <= measured.hi <= 1000:
            yield finding(
                "regression-on-classes",
                "note",
                f"{_NAMES.get(node.op, node.op)} gets whole numbers {measured.lo:g} to {measured.hi:g} for its target: "
                "are they classes? A regression takes class 2 to lie between 1 and 3",
                node,
                cause="loss-input-mismatch",
            )


def _regressions(context: Context) -> Iterator[tuple[Node, int]]:
    """Yield each regression with its target; a square of a difference is one too."""
    for node in relevant(context, "mse_loss", "smooth_l1_loss", "huber_loss"):
        yield node, node.inputs[1]
    for node in relevant(context, "square", "integer_pow", "pow", "abs"):
        if node.op == "integer_pow" and node.attrs.get("y") != 2:
            continue
        inner = context.maker(node.inputs[0])
        if inner.op == "sub" and len(inner.inputs) > 1:
            for index in inner.inputs[:2]:
                other = inner.inputs[1] if index == inner.inputs[0] else inner.inputs[0]
                # The model's output against data as they came.
                if context.maker(index).kind == "data" and context.values[other].grad:
                    yield node, index


_NAMES = {"square": "a squared error", "integer_pow": "a squared error", "pow": "a squared error", "abs": "an error"}
