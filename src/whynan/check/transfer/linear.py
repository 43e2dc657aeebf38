"""Sums of products: matrix products, convolutions, attention, pooling."""

import math
from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import INF, Range, of, times
from whynan.check.transfer import transfers
from whynan.check.transfer.arithmetic import product


@transfers(
    "mm",
    "bmm",
    "matmul",
    "dot",
    "mv",
    "dot_general",
    "addmm",
    "baddbmm",
    "addbmm",
    "addmv",
    "linear",
    "einsum",
    "convolution",
    "conv_general_dilated",
    "_trilinear",
    "mkldnn_linear",
    "outer",
    "vdot",
    "convolution_overrideable",
    "_convolution",
    "conv1d",
    "conv2d",
    "_thnn_fused_gru_cell",
)
def matmul(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """A sum of n products lies within n times the largest; with an estimate, within that of what was measured."""
    bias: Range | None
    if node.op in ("addmm", "baddbmm", "addbmm", "addmv"):
        bias, a, b = ins[0], ins[1], ins[2]
        n = _inner(context.node(node.inputs[1]))
    else:
        a, b = ins[0], ins[1]
        bias = ins[2] if len(ins) > 2 else None
        n = _n_products(node, context)
    one = product(a, b)
    lo, hi = times(n, one.lo), times(n, one.hi)
    lo, hi = min(lo, hi), max(lo, hi)
    if n > 1 and node.op.startswith("conv"):
        lo, hi = min(lo, 0.0), max(hi, 0.0)  # at the edges padding stands for some of the products
    masked = False
    if bias is not None:
        lo, hi = lo + bias.lo, hi + bias.hi
        masked = bias.masked
    operands = [r for r in (a, b, bias) if r is not None]
    return learned(node, lo, hi, operands, context, masked)


def learned(node: Node, lo: float, hi: float, operands: list[Range], context: Context, masked: bool = False) -> Range:
    """Return a sum's range: its bounds, or the estimate of what it may grow to where that is less."""
    measured = node.measured
    if context.growth is None or measured is None or not any(r.varies for r in operands):
        return of(lo, hi, *operands, masked=masked, nonzero=lo > 0 or hi < 0)
    reach = context.growth * max(measured.magnitude, 1e-3)
    soft = reach < max(abs(lo), abs(hi)) or any(r.soft for r in operands)
    low, high = max(lo, -reach), min(hi, reach)
    if low > high:
        low, high = lo, hi
    return of(low, high, *operands, soft=soft, masked=masked, nonzero=low > 0 or high < 0, steep=False, empty=False)


def _inner(node: Node) -> int:
    return node.shape[-1] if node.shape else 1


def _n_products(node: Node, context: Context) -> int:
    first, second = context.node(node.inputs[0]), context.node(node.inputs[1])
    if node.op.startswith(("conv", "_conv")):
        return max(second.size // max(second.shape[0] if second.shape else 1, 1), 1)
    if node.op == "dot_general":
        return max(math.isqrt(max(first.size * second.size // max(node.size, 1), 1)), 1) + 1
    return max(_inner(first), 1)


@transfers("avg_pool2d", "avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "mean_pool", "avg_pool3d")
def average(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    return of(min(x.lo, 0.0), max(x.hi, 0.0), x, nonzero=False)


@transfers(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_cudnn_attention",
)
def attention(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """Weights that sum to one of the values."""
    value = ins[2]
    return of(value.lo, value.hi, *ins[:3], nonzero=False, soft=value.soft)


@transfers("cdist", "_cdist_forward", "_euclidean_dist", "pairwise_distance", "_pdist_forward")
def distance(node: Node, ins: Sequence[Range], context: Context) -> Range:
    first = context.node(node.inputs[0])
    other = ins[1] if len(ins) > 1 else ins[0]
    reach = (ins[0].magnitude + other.magnitude) * max(_inner(first), 1)
    return of(0.0, reach, *ins[:2], nonzero=False)


@transfers(
    "linalg_det",
    "det",
    "logdet",
    "slogdet",
    "linalg_slogdet",
    "linalg_inv",
    "inverse",
    "cholesky",
    "linalg_cholesky_ex",
    "linalg_inv_ex",
    "linalg_solve_ex",
    "_linalg_svd",
    "_linalg_eigh",
)
def decomposed(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(-INF, INF, *ins)
