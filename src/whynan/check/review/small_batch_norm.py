"""BatchNorm over a handful of values: tiny batches, maps of 1x1."""

import math
from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
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
    yield from _of_compiled(facts)


def _of_compiled(facts: StepFacts) -> Iterator[Finding]:
    """1 / sqrt(variance + eps), the variance a mean over the batch."""
    context = facts.context
    for node in relevant(context, "rsqrt", "rsqrt_"):
        added = context.maker(node.inputs[0])
        if added.op != "add":
            continue
        total = _sum_of_squares(context, next((i for i in added.inputs if context.number(i) is None), added.inputs[0]))
        if total is None:
            continue
        shape, dims = context.node(total.inputs[0]).shape, total.attrs.get("dim") or []
        dims = [int(d) % max(len(shape), 1) for d in dims]
        n = math.prod(shape[d] for d in dims)
        if 0 in dims and len(shape) >= 2 and len(dims) < len(shape) and n <= _FEW:
            yield finding(
                "batch-norm-batch",
                "warning",
                f"BatchNorm takes mean and variance of {n} values a channel (input {'x'.join(map(str, shape))}); with "
                "1 all is 0, with few they are noise: GroupNorm, or larger batches",
                node,
                value=str(n),
                cause="normalization-zero-variance",
            )


def _sum_of_squares(context: Context, index: int) -> Node | None:
    for _ in range(6):
        node = context.maker(index)
        if node.op in ("sum", "reduce_sum", "mean", "var", "var_mean") and node.inputs:
            return node
        if node.op in ("select_n", "where") and len(node.inputs) > 2:
            # A variance of nothing is NaN by a selection; the other branch is the sum's.
            branches = [i for i in node.inputs[1:] if context.node(i).measured is not None]
            index = next((i for i in branches if context.number(i) is None and context.values[i].varies), branches[-1])
        elif node.op in ("div", "maximum", "sub", "mul") and node.inputs:
            index = next((i for i in node.inputs if context.number(i) is None), node.inputs[0])
        else:
            return None
    return None
