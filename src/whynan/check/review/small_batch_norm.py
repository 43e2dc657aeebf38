"""BatchNorm over a handful of values: tiny batches, maps of 1x1."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant

_FEW = 4


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node in relevant(context, "native_batch_norm", "cudnn_batch_norm", "_batch_norm_with_update"):
        shape = context.node(node.inputs[0]).shape
        if node.attrs.get("training") is False or len(shape) < 2:
            continue
        n = context.node(node.inputs[0]).size // max(shape[1], 1)
        if n <= _FEW:
            yield finding(
                "batch-norm-batch",
                "warning",
                f"BatchNorm takes mean and variance of {n} values a channel (input "
                f"{'x'.join(map(str, shape))}); with 1 "
                "it fails, with few they are noise: GroupNorm, or larger batches",
                node,
                value=str(n),
                cause="normalization-zero-variance",
            )
