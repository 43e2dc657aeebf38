"""Softmax and the normalisations: bounded whatever comes in."""

import math
from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import INF, Range, of, widen_up
from whynan.check.transfer import transfers
from whynan.check.transfer.arithmetic import product


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
    out = unit if weight is None else product(unit, ins[weight])
    if bias is not None:
        out = of(out.lo + ins[bias].lo, out.hi + ins[bias].hi, out, ins[bias])
    if context.growth is not None and node.measured is not None:
        limit = context.growth * max(node.measured.magnitude, 1.0)
        return of(max(out.lo, -limit), min(out.hi, limit), out, x, soft=True, nonzero=False, steep=False, masked=False)
    return of(out.lo, out.hi, out, x, nonzero=False, steep=False, masked=False)


def _by_measure(node: Node, x: Range, context: Context) -> Range:
    from whynan.check.transfer.shapes import estimated

    return estimated(node, x, context)
