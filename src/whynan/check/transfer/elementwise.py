"""Functions of one operand, element by element."""

import math
from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.graph import INF, Node, Range, largest, monotone, of, safe, widen_down, widen_up
from whynan.check.transfer import transfers


@transfers("exp", "exp2", "exp_")
def exp(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    function = math.exp2 if node.op == "exp2" else math.exp
    lo, hi = safe(function, x.lo), safe(function, x.hi)
    lo = 0.0 if x.masked else lo
    top = 1.0 if x.hi <= 0 else widen_up(hi)
    # Exp reaches 0 by underflow only; what training may reach is taken to stop before that.
    positive = not x.masked and (lo > 0 or x.soft)
    return of(max(widen_down(lo), 0.0), top, x, nonzero=positive, steep=x.varies and top > 1e4, masked=False)


@transfers("expm1")
def expm1(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return monotone(math.expm1, ins[0], nonzero=ins[0].nonzero, steep=ins[0].varies and ins[0].hi > 10)


@transfers("log", "log2", "log10")
def log(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    function = {"log2": math.log2, "log10": math.log10}.get(node.op, math.log)
    lo = function(x.lo) if x.lo > 0 else -INF
    hi = 0.0 if x.hi == 1 else function(x.hi) if 0 < x.hi < INF else INF if x.hi > 0 else -INF
    # Of a positive number of the type, even the smallest, the logarithm is not far down.
    return of(
        widen_down(max(lo, -800.0)) if lo > -INF or x.nonzero else -800.0,
        widen_up(max(hi, -800.0)),
        x,
        steep=False,
        integer=False,
    )


@transfers("log1p")
def log1p(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    lo = math.log1p(x.lo) if x.lo > -1 else -800.0
    hi = math.log1p(x.hi) if -1 < x.hi < INF else INF if x.hi > -1 else -800.0
    return of(widen_down(lo), widen_up(hi), x, steep=False)


def squash(node: Node, x: Range, lo: float, hi: float, a: float, b: float) -> Range:
    """Return the range of a saturating function: all of it where the operand's ends are estimates."""
    bounded = not x.soft and math.isfinite(x.lo) and math.isfinite(x.hi)
    return of(a if bounded else lo, b if bounded else hi, x, steep=False, soft=False, masked=False)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@transfers("sigmoid", "logistic", "sigmoid_")
def sigmoid(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return squash(node, x, 0.0, 1.0, max(widen_down(_sigmoid(x.lo)), 0.0), min(widen_up(_sigmoid(x.hi)), 1.0))


@transfers("hardsigmoid")
def hardsigmoid(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(0.0, 1.0, *ins[:1], soft=False, nonzero=False)


@transfers("tanh", "tanh_")
def tanh(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return squash(node, x, -1.0, 1.0, max(widen_down(math.tanh(x.lo)), -1.0), min(widen_up(math.tanh(x.hi)), 1.0))


@transfers("erf")
def erf(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(-1.0, 1.0, *ins[:1], soft=False)


@transfers("atan")
def atan(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return monotone(math.atan, ins[0], steep=False, nonzero=ins[0].nonzero)


@transfers("sin", "cos")
def sin(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(-1.0, 1.0, *ins[:1], soft=False, steep=False)


@transfers("acos")
def acos(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(0.0, 3.1415930, *ins[:1], soft=False, steep=False)


@transfers("asin")
def asin(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(-1.5707965, 1.5707965, *ins[:1], soft=False, steep=False)


@transfers("sqrt", "sqrt_")
def sqrt(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    lo, hi = math.sqrt(max(x.lo, 0)), math.sqrt(max(x.hi, 0))
    return of(widen_down(lo), widen_up(hi), x, nonzero=x.nonzero, integer=False)


@transfers("rsqrt")
def rsqrt(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    hi = 1 / math.sqrt(x.lo) if x.lo > 0 else INF
    lo = 1 / math.sqrt(x.hi) if 0 < x.hi < INF else 0.0
    return of(widen_down(lo), widen_up(hi), x, nonzero=True, steep=False)


@transfers("cbrt")
def cbrt(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return monotone(lambda v: math.copysign(abs(v) ** (1 / 3), v), ins[0], nonzero=ins[0].nonzero)


@transfers("abs", "abs_")
def absolute(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    lo = 0.0 if x.lo <= 0 <= x.hi else min(abs(x.lo), abs(x.hi))
    return of(lo, x.magnitude, x, nonzero=x.nonzero, integer=x.integer)


@transfers("neg", "neg_")
def neg(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return of(-x.hi, -x.lo, x, nonzero=x.nonzero, integer=x.integer)


@transfers("sign", "sgn")
def sign(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return of(
        -1.0 if x.lo < 0 else 0.0 if x.may_be_zero else 1.0,
        1.0 if x.hi > 0 else 0.0 if x.hi == 0 else -1.0,
        x,
        nonzero=x.nonzero,
        integer=True,
        soft=False,
    )


@transfers("square", "square_", "integer_pow2")
def square(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    lo = 0.0 if x.lo <= 0 <= x.hi else min(abs(x.lo), abs(x.hi)) ** 2
    return of(
        widen_down(lo),
        widen_up(safe(lambda v: v**2, x.magnitude)),
        x,
        nonzero=x.nonzero and lo > 1e-30,
        integer=x.integer,
    )


@transfers("floor", "ceil", "round", "trunc", "floor_", "round_")
def floor(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    lo = math.floor(x.lo) if math.isfinite(x.lo) else x.lo
    hi = math.ceil(x.hi) if math.isfinite(x.hi) else x.hi
    return of(lo, hi, x, nonzero=False, integer=True)


# Activations -----------------------------------------------------------------------------------------------------


@transfers("relu", "relu_")
def relu(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return of(max(x.lo, 0.0), max(x.hi, 0.0), x, masked=False, nonzero=x.lo > 0)


@transfers(
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "elu_",
    "gelu",
    "silu",
    "silu_",
    "mish",
    "hardswish",
    "hardswish_",
    "celu",
    "selu",
    "prelu",
    "_prelu_kernel",
    "rrelu",
)
def bent(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """An activation that is at most |x| on both sides, give or take a constant."""
    x = ins[0]
    slope = 1.8 if node.op in ("elu", "elu_", "celu", "selu") else 1.0
    if node.op in ("prelu", "_prelu_kernel") and len(ins) > 1:
        slope = max(1.0, ins[1].magnitude)
    low = {"gelu": -0.2, "silu": -0.3, "silu_": -0.3, "mish": -0.4, "hardswish": -0.4, "hardswish_": -0.4}.get(node.op)
    lo = slope * min(x.lo, 0.0) if low is None else max(low, min(x.lo, 0.0))
    return of(lo, slope * max(x.hi, 0.0), x, steep=False)


@transfers("hardtanh", "hardtanh_", "relu6")
def hardtanh(node: Node, ins: Sequence[Range], context: Context) -> Range:
    lo, hi = float(node.attrs.get("min_val", -1.0)), float(node.attrs.get("max_val", 1.0))
    inner = ins[0].within(lo, hi)
    return of(inner.lo, inner.hi, inner, soft=False)


@transfers("softplus")
def softplus(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]

    def function(v: float) -> float:
        return v if v > 30 else math.log1p(math.exp(v)) if v > -700 else 0.0

    lo = 0.0 if x.soft else max(widen_down(function(x.lo)), 0.0)
    return of(lo, widen_up(function(x.hi)) if x.hi < INF else INF, x, steep=False)


@transfers("log_sigmoid_forward", "log_sigmoid")
def log_sigmoid(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    return of(min(x.lo, 0.0) - 0.7 if x.lo < 30 else -1.0, 0.0, x, steep=False)


@transfers("reciprocal")
def reciprocal(node: Node, ins: Sequence[Range], context: Context) -> Range:
    from whynan.check.transfer.arithmetic import quotient

    one = Range(1.0, 1.0, nonzero=True, varies=False)
    return quotient(one, ins[0], None)


@transfers("nan_to_num", "nan_to_num_")
def nan_to_num(node: Node, ins: Sequence[Range], context: Context) -> Range:
    (x,) = ins[:1]
    top = largest(node.dtype)
    return of(max(min(x.lo, 0.0), -top), min(max(x.hi, 0.0), top), x, masked=False)
