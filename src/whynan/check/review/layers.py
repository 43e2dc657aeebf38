"""Remarks on layers and their parameters."""

import math
from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.review import StepFacts, finding, relevant, remark
from whynan.check.suspects import Finding

_RELUS = ("ReLU", "ReLU6")

_FEW = 4


@remark
def layer_scale(facts: StepFacts) -> Iterator[Finding]:
    """Activations that grow or vanish from layer to layer, and units that give nothing."""
    layers = [layer for layer in facts.layers if layer.rms > 0]
    if len(layers) >= 2:
        largest, smallest = max(layers, key=lambda l: l.rms), min(layers, key=lambda l: l.rms)  # noqa: E741
        if largest.rms > 1e3 * max(layers[0].rms, 1.0):
            yield Finding(
                "activation-scale",
                "warning",
                f"the output of {largest.path} is {largest.rms:.3g} in size, of the first layer "
                f"{layers[0].rms:.3g}: "
                "activations grow with depth, and gradients with them",
                value=f"{largest.rms:.4g}",
                cause="bad-initialization",
            )
        if smallest.rms < 1e-5:
            yield Finding(
                "activation-scale",
                "warning",
                f"the output of {smallest.path} is {smallest.rms:.3g} in size: activations vanish with depth",
                value=f"{smallest.rms:.4g}",
                cause="bad-initialization",
            )
    for layer in facts.layers:
        if layer.kind in _RELUS and layer.zeros > 0.98:
            yield Finding(
                "dead-units",
                "warning",
                f"{100 * layer.zeros:.0f} % of what {layer.path} gives is 0: its units are dead",
                value=f"{layer.zeros:.3f}",
                cause="bad-initialization",
            )
        if layer.saturated > 0.9:
            yield Finding(
                "saturated-units",
                "warning",
                f"{100 * layer.saturated:.0f} % of what {layer.path} gives lies at its ends: gradients vanish there",
                value=f"{layer.saturated:.3f}",
                cause="bad-initialization",
            )


@remark
def small_batch_norm(facts: StepFacts) -> Iterator[Finding]:
    """BatchNorm over a handful of values: tiny batches, maps of 1x1."""
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


@remark
def uninitialized(facts: StepFacts) -> Iterator[Finding]:
    """Parameters whose memory was never written to."""
    for node in facts.context.graph.nodes:
        if node.attrs.get("uninitialized"):
            yield finding(
                "uninitialized-parameter",
                "error",
                f"{node.name or 'a parameter'} was made by `empty` and never written to",
                node,
                cause="uninitialized-memory",
            )
