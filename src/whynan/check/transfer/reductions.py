"""Sums, means, extremes and spreads; normalisations and losses; sums of products: matrices, convolutions, attention."""

import math
from collections.abc import Sequence

from whynan.check.context import Context, difference_from_extreme, is_unit_vectors, mask_varies
from whynan.check.graph import INF, Node, Range, of, times, widen_down, widen_up
from whynan.check.transfer import transfers
from whynan.check.transfer.arithmetic import product as multiplied


def n_reduced(node: Node, context: Context) -> int:
    """Return how many elements go into one of the output."""
    inner = context.node(node.inputs[0]).size
    return max(inner // max(node.size, 1), 1)


@transfers("sum", "reduce_sum", "nansum", "cumsum")
def total(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    if node.op == "cumsum":
        n = max(context.node(node.inputs[0]).shape, default=1)
        return of(times(n, min(x.lo, 0)), times(n, max(x.hi, 0)), x, nonzero=x.lo > 0 or x.hi < 0, integer=x.integer)
    n = n_reduced(node, context)
    if _sums_to_one(node, context):
        return of(0.999, 1.001, x, soft=False)
    lo, hi = times(n, x.lo), times(n, x.hi)
    if x.empty:
        lo, hi = min(lo, 0.0), max(hi, 0.0)
    if _has_largest_one(node, context):
        lo = max(lo, 0.999)
    lo, hi = _estimated(node, x, lo, hi, context)
    return of(lo, hi, x, empty=False, integer=x.integer, masked=x.masked)


def _estimated(node: Node, x: Range, lo: float, hi: float, context: Context) -> tuple[float, float]:
    """Where growth is estimated, a sum of many is not taken to have all of them at their worst."""
    if context.growth is None or node.measured is None or not x.soft:
        return lo, hi
    reach = context.growth * max(node.measured.magnitude, x.magnitude if math.isfinite(x.magnitude) else 0.0)
    return (lo if lo >= 0 else max(lo, -reach)), (hi if hi <= 0 else min(hi, reach))


def _sums_to_one(node: Node, context: Context) -> bool:
    maker = context.maker(node.inputs[0])
    if maker.op in ("softmax", "_softmax") and not context.values[maker.index].masked:
        dims = node.attrs.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or [])
        n = len(maker.shape)
        return len(dims) == 1 and n > 0 and dims[0] % n == int(maker.attrs.get("dim", -1)) % n
    return False


def _has_largest_one(node: Node, context: Context) -> bool:
    """Whether the sum is over exp(x - max(x)): one of its terms is 1."""
    maker = context.maker(node.inputs[0])
    if maker.op != "exp":
        return False
    shifted = context.maker(maker.inputs[0])
    if shifted.op != "sub" or len(shifted.inputs) < 2 or context.values[shifted.index].masked:
        return False
    return difference_from_extreme(shifted.inputs[0], shifted.inputs[1], context) == "below"


@transfers("mean", "nanmean", "reduce_mean")
def mean(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return of(widen_down(x.lo), widen_up(x.hi), x, empty=False, masked=x.masked, nonzero=x.lo > 0 or x.hi < 0)


@transfers(
    "amax",
    "amin",
    "max",
    "min",
    "max.dim",
    "min.dim",
    "reduce_max",
    "reduce_min",
    "median",
    "median.dim",
    "sort",
    "topk",
    "kthvalue",
    "quantile",
    "mode",
    "cummax",
    "cummin",
    "aminmax",
    "_aminmax",
)
def extreme(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    # A row that is -inf as a whole has -inf for its maximum: where data put the -inf there that may come about.
    whole = x.masked and (mask_varies(node, context) or bool(node.measured and node.measured.n_nonfinite))
    return of(x.lo, x.hi, x, masked=whole, nonzero=x.nonzero, integer=x.integer)


@transfers("prod", "reduce_prod", "cumprod")
def product(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    n = n_reduced(node, context) if node.op != "cumprod" else max(context.node(node.inputs[0]).shape, default=1)
    if n == 1:
        return x
    try:
        reach = max(x.magnitude**n, x.magnitude)
    except OverflowError:
        reach = INF
    lo = 0.0 if x.lo >= 0 else -reach
    if x.lo > 0:
        lo = min(x.lo**n, x.lo)
    return of(lo, widen_up(reach), x, integer=x.integer, nonzero=lo > 0)


@transfers("var", "std", "var_mean", "std_mean", "reduce_variance")
def spread(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    if node.measured is not None and not x.varies:
        return of(node.measured.lo, node.measured.hi, x, nonzero=node.measured.least > 0)
    half = (x.hi - x.lo) / 2
    n = n_reduced(node, context)
    hi = half * half * (n / (n - 1) if n > 1 else 1.0)
    hi = math.sqrt(hi) if node.op.startswith("std") and hi < INF else hi
    return of(0.0, widen_up(hi), x, nonzero=False, masked=False)


@transfers("linalg_vector_norm", "norm", "linalg_norm")
def norm(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    if is_unit_vectors(node.inputs[0], context):
        return of(0.0, 1.001, x, soft=False, nonzero=False)
    n = n_reduced(node, context)
    hi = x.magnitude * n
    if float(node.attrs.get("ord", node.attrs.get("p", 2)) or 2) >= 2:
        hi = x.magnitude * math.sqrt(n)
    lo = 0.0 if x.may_be_zero or x.empty else min(abs(x.lo), abs(x.hi)) if x.lo > 0 or x.hi < 0 else 0.0
    if context.growth is not None and x.soft and node.measured is not None:
        hi = min(hi, context.growth * max(node.measured.magnitude, x.magnitude))
    return of(widen_down(lo), widen_up(hi), x, nonzero=x.nonzero)


@transfers("logsumexp", "logcumsumexp", "cumlogsumexp")
def logsumexp(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    n = n_reduced(node, context) if node.op == "logsumexp" else max(context.node(node.inputs[0]).shape, default=1)
    whole = x.masked and (mask_varies(node, context) or bool(node.measured and node.measured.n_nonfinite))
    return of(x.lo, x.hi + math.log(max(n, 1)), x, masked=whole)


@transfers("argmax", "argmin", "argsort", "count_nonzero", "searchsorted", "bucketize")
def position(node: Node, ins: Sequence[Range], context: Context) -> Range:
    n = context.node(node.inputs[0]).size
    return of(0.0, float(n), *ins[:1], integer=True, nonzero=False, soft=False, grad=False, steep=False)


@transfers("binary_cross_entropy")
def binary_cross_entropy(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """PyTorch clamps the logarithms at -100."""
    return of(0.0, 100.0, *ins[:2], nonzero=False, soft=False)


@transfers(
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "l1_loss",
    "soft_margin_loss",
    "multi_margin_loss",
    "_ctc_loss",
    "_use_cudnn_ctc_loss",
)
def nonnegative(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a = ins[0].magnitude
    b = ins[1].magnitude if len(ins) > 1 else 0.0
    hi = (a + b) ** 2 + a + b if a + b < 1e150 else INF
    return of(0.0, hi if node.attrs.get("reduction", 1) != 2 else INF, *ins[:2], nonzero=False, empty=False)


@transfers("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d", "nll_loss_nd")
def nll(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    return of(
        min(-x.hi, 0.0),
        max(-x.lo, 0.0) if node.attrs.get("reduction", 1) != 2 else INF,
        x,
        nonzero=False,
        masked=False,
        empty=False,
    )


@transfers("_softmax", "softmax", "_safe_softmax")
def softmax(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    lo = 0.0
    n = _n_classes(node, context)
    if not x.soft and not x.masked and math.isfinite(x.hi - x.lo) and x.hi - x.lo < 80:
        lo = math.exp(x.lo - x.hi) / n * 0.999
    return of(lo, 1.0, x, soft=False, masked=False, nonzero=lo > 0, steep=False)


def _n_classes(node: Node, context: Context) -> int:
    shape = context.node(node.inputs[0]).shape
    return max(shape[int(node.attrs.get("dim", -1))] if shape else 1, 1)


@transfers("_log_softmax", "log_softmax")
def log_softmax(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    n = _n_classes(node, context)
    return of(
        x.lo - x.hi - math.log(n) - 1e-3 if math.isfinite(x.hi - x.lo) else -INF,
        0.0,
        x,
        masked=x.masked,
        nonzero=False,
        steep=False,
    )


@transfers(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
    "native_layer_norm",
    "native_group_norm",
    "_native_batch_norm_legit_functional",
    "batch_norm",
    "layer_norm",
    "_fused_rms_norm",
    "rms_norm",
    "_batch_norm_with_update",
)
def normalized(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """Of n elements with mean 0 and variance 1 none is larger than sqrt(n - 1): then weight and bias."""
    x = ins[0]
    shape = context.node(node.inputs[0]).shape
    n = context.node(node.inputs[0]).size
    if "batch" in node.op and len(shape) > 1:
        n //= max(shape[1], 1)
        if node.attrs.get("training") is False:
            return of(-INF, INF, x) if node.measured is None else _by_measure(node, x, context)
    elif "layer" in node.op or "rms" in node.op:
        dims = node.attrs.get("normalized_shape")
        n = math.prod(int(d) for d in dims) if isinstance(dims, (list, tuple)) else shape[-1] if shape else 1
    reach = math.sqrt(max(n - 1, 1)) if "rms" not in node.op else math.sqrt(max(n, 1))
    unit = Range(-widen_up(reach), widen_up(reach), varies=x.varies, grad=x.grad)
    weight = node.attrs.get("weight_input")
    bias = node.attrs.get("bias_input")
    out = unit if weight is None else multiplied(unit, ins[weight])
    if bias is not None:
        out = of(out.lo + ins[bias].lo, out.hi + ins[bias].hi, out, ins[bias])
    if context.growth is not None and node.measured is not None:
        limit = context.growth * max(node.measured.magnitude, 1.0)
        return of(max(out.lo, -limit), min(out.hi, limit), out, x, soft=True, nonzero=False, steep=False, masked=False)
    return of(out.lo, out.hi, out, x, nonzero=False, steep=False, masked=False)


def _by_measure(node: Node, x: Range, context: Context) -> Range:
    from whynan.check.transfer.shapes import estimated

    return estimated(node, x, context)


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
    one = multiplied(a, b)
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
