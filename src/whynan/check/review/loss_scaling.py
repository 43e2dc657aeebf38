"""float16 without a scaler, and gradients clipped while they are still scaled."""

from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding


def find(facts: StepFacts) -> Iterator[Finding]:
    graph = facts.context.graph
    relevant = graph.relevant()
    half = next(
        (
            n
            for n in graph.nodes
            if n.dtype == "float16"
            and n.kind == "op"
            and n.index in relevant
            and n.op not in ("_to_copy", "alias", "t", "view")
            and n.phase == "forward"
        ),
        None,
    )
    if half is not None and not facts.is_scaled and not _is_scaled_by_hand(facts.context):
        yield finding(
            "loss-scaling",
            "warning",
            "the forward pass runs in float16 and no GradScaler scales the loss: small gradients become 0",
            half,
            cause="missing-grad-scaling",
        )
    place = facts.clipped_before_unscale
    if place is not None:
        yield Finding(
            "clip-before-unscale",
            "error",
            "gradients are clipped while they are still multiplied by the loss scale: call "
            "scaler.unscale_(optimizer) "
            "first",
            place.line,
            place.file,
            cause="missing-grad-scaling",
        )


def _is_scaled_by_hand(context: Context) -> bool:
    """Whether the loss is multiplied by a large number before its gradient is taken."""
    for root in context.graph.roots:
        node = context.maker(root)
        if node.op == "mul" and any((context.number(i) or 0) >= _LEAST_SCALE for i in node.inputs):
            return True
    return False


_LEAST_SCALE = 16
