"""Sums, products, quotients and powers of two operands, with what is known where both are related."""

import math
from collections.abc import Sequence

from whynan.check.context import Context, difference_from_extreme, unit_share
from whynan.check.graph import INF, Node, Range, join, of, safe, times, widen_down, widen_up
from whynan.check.transfer import transfers


@transfers("add", "add_", "add_any")
def add(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    scale = float(node.attrs.get("alpha", 1) or 1)
    b = b if scale == 1 else scaled(b, scale)
    masked = a.masked or b.masked or -INF in (context.number(i) for i in node.inputs[:2])
    nonzero = (a.lo >= 0 and b.lo >= 0 and (a.nonzero or b.nonzero)) or (
        a.hi <= 0 and b.hi <= 0 and (a.nonzero or b.nonzero)
    )
    lo, hi = a.lo + b.lo, a.hi + b.hi
    return of(lo, hi, a, b, masked=masked, nonzero=nonzero or lo > 0 or hi < 0, integer=a.integer and b.integer)


@transfers("sub", "sub_", "rsub")
def sub(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    left, right = node.inputs[:2]
    if node.op == "rsub":
        a, b, left, right = b, a, right, left
    scale = float(node.attrs.get("alpha", 1) or 1)
    b = b if scale == 1 else scaled(b, scale)
    if scale == 1 and context.is_same(left, right):
        return of(0.0, 0.0, a, b, soft=False)
    lo, hi = a.lo - b.hi, a.hi - b.lo
    side = difference_from_extreme(left, right, context)
    if side == "below":
        hi = min(hi, 0.0)
    elif side == "above":
        lo = max(lo, 0.0)
    return of(lo, hi, a, b, masked=a.masked, integer=a.integer and b.integer)


@transfers("mul", "mul_")
def mul(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    if len(node.inputs) > 1 and context.is_same(*node.inputs[:2]):
        lo = 0.0 if a.lo <= 0 <= a.hi else min(abs(a.lo), abs(a.hi)) ** 2
        return of(widen_down(lo), widen_up(safe(lambda v: v**2, a.magnitude)), a, b, integer=a.integer)
    return product(a, b)


def product(a: Range, b: Range) -> Range:
    """Return the range of a product of elements that have nothing to do with each other."""
    ends = [times(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    lo, hi = min(ends), max(ends)
    # Two small factors may underflow; what is far from the smallest number of the type does not.
    least = _least(a) * _least(b)
    nonzero = a.nonzero and b.nonzero and (least > 1e-37 or (a.soft or b.soft))
    return of(
        lo,
        hi,
        a,
        b,
        nonzero=nonzero or lo > 0 or hi < 0,
        integer=a.integer and b.integer,
        masked=(a.masked and b.lo > 0) or (b.masked and a.lo > 0),
    )


def scaled(a: Range, factor: float) -> Range:
    return product(a, Range(factor, factor, nonzero=factor != 0, varies=False, integer=factor.is_integer()))


def _least(a: Range) -> float:
    return a.lo if a.lo > 0 else -a.hi if a.hi < 0 else 1e-30 if a.nonzero else 0.0


@transfers("div", "div_", "true_divide", "divide")
def div(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    if len(node.inputs) > 1:
        bound = unit_share(node, ins, context)
        if bound is not None:
            return bound
        if context.is_same(*node.inputs[:2]):
            return of(1.0, 1.0, a, b, soft=False)
    if node.attrs.get("rounding_mode"):
        return quotient(a, b, context) if b.nonzero else of(-INF, INF, a, b)
    return quotient(a, b, context)


def quotient(a: Range, b: Range, context: Context | None) -> Range:
    """Return the range of a quotient; where the divisor may be 0 it has no end on the sides it can be reached from."""
    if b.lo > 0 or b.hi < 0:
        ends = [_over(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
        return of(
            widen_down(min(ends)),
            widen_up(max(ends)),
            a,
            b,
            integer=False,
            nonzero=a.nonzero and (a.lo > 0 or a.hi < 0) and math.isfinite(b.hi) and math.isfinite(b.lo),
            masked=a.masked and b.lo > 0,
        )
    lo = 0.0 if (a.lo >= 0 and b.lo >= 0) or (a.hi <= 0 and b.hi <= 0) else -INF
    hi = 0.0 if (a.lo >= 0 and b.hi <= 0) or (a.hi <= 0 and b.lo >= 0) else INF
    return of(lo, hi, a, b, integer=False, nonzero=False)


def _over(x: float, y: float) -> float:
    if math.isinf(y):
        return 0.0
    return safe(lambda v: v / y, x)


@transfers("remainder", "fmod", "floor_divide", "rem")
def remainder(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    if node.op == "floor_divide":
        r = quotient(a, b, context)
        return of(
            math.floor(r.lo) if math.isfinite(r.lo) else r.lo,
            math.ceil(r.hi) if math.isfinite(r.hi) else r.hi,
            a,
            b,
            nonzero=False,
            integer=True,
        )
    size = b.magnitude
    lo = 0.0 if (node.op == "remainder" and b.lo >= 0) or (node.op != "remainder" and a.lo >= 0) else -size
    return of(
        lo, size if b.hi > 0 or node.op != "remainder" else 0.0, a, b, nonzero=False, integer=a.integer and b.integer
    )


@transfers("pow", "pow_", "integer_pow", "float_power")
def power(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    exponent = node.attrs.get("y") if node.op == "integer_pow" else context.number(node.inputs[1])
    if exponent is None:
        base = context.number(node.inputs[0])
        y = ins[1]
        if base is not None and base > 0:
            ends = [safe(lambda v: base**v, y.lo), safe(lambda v: base**v, y.hi)]
            return of(widen_down(min(ends)), widen_up(max(ends)), y, nonzero=True, steep=y.varies)
        if x.lo >= 0:
            ends = [safe(lambda v, p=p: v**p, b) for b in (x.lo or 1e-300, x.hi) for p in (y.lo, y.hi)]  # type: ignore[misc]
            return of(
                0.0 if x.lo <= 0 else max(widen_down(min(ends)), 0.0),
                widen_up(max(ends + [1.0])),
                x,
                y,
                nonzero=x.lo > 0,
                steep=x.steep,
            )
        return of(-INF, INF, x, y)
    return constant_power(x, float(exponent))


def constant_power(x: Range, p: float) -> Range:
    """Return the range of x**p for a number p."""
    if p == 0:
        return of(1.0, 1.0, x, soft=False)
    if p < 0:
        inner = constant_power(x, -p)
        one = Range(1.0, 1.0, nonzero=True, varies=False)
        return quotient(one, inner, None)
    if p == int(p) and int(p) % 2 == 0:
        lo = 0.0 if x.lo <= 0 <= x.hi else safe(lambda v: v**p, min(abs(x.lo), abs(x.hi)))
        hi = safe(lambda v: v**p, x.magnitude)
        return of(widen_down(lo), widen_up(hi), x, nonzero=lo > 0 or (x.nonzero and x.soft), integer=x.integer)
    if p == int(p):
        return of(
            _odd(x.lo, p, widen_down), _odd(x.hi, p, widen_up), x, integer=x.integer, nonzero=x.nonzero and p == 1
        )
    return of(
        widen_down(safe(lambda v: v**p, max(x.lo, 0.0))),
        widen_up(safe(lambda v: v**p, max(x.hi, 0.0))),
        x,
        nonzero=x.lo > 0,
    )


def _odd(x: float, p: float, widen: object) -> float:
    value = math.copysign(safe(lambda v: v**p, abs(x)), x)
    return widen(value)  # type: ignore[operator,no-any-return]


@transfers("maximum", "max.other", "fmax", "max_pair")
def maximum(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    if context.number(node.inputs[0]) == -INF:
        return b
    if context.number(node.inputs[1]) == -INF:
        return a
    lo, hi = max(a.lo, b.lo), max(a.hi, b.hi)
    soft = (a.soft and a.hi >= b.hi) or (b.soft and b.hi >= a.hi) or (a.soft and b.soft)
    nonzero = (a.nonzero and b.nonzero) or (a.lo >= 0 and a.nonzero) or (b.lo >= 0 and b.nonzero)
    return of(
        lo,
        hi,
        a,
        b,
        soft=soft,
        masked=a.masked and b.masked,
        nonzero=lo > 0 or hi < 0 or nonzero,
        integer=a.integer and b.integer,
    )


@transfers("minimum", "min.other", "fmin", "min_pair")
def minimum(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    lo, hi = min(a.lo, b.lo), min(a.hi, b.hi)
    return of(
        lo,
        hi,
        a,
        b,
        masked=a.masked or b.masked,
        nonzero=lo > 0 or hi < 0 or (a.nonzero and b.nonzero),
        integer=a.integer and b.integer,
    )


@transfers("clamp", "clip", "clamp_", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_")
def clamp(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    lo, hi = bounds_of_clamp(node, ins)
    soft = x.soft and not (lo > -INF and hi < INF)
    cut = x.within(lo, hi)
    nonzero = cut.lo > 0 or cut.hi < 0 or (x.nonzero and not lo <= 0 <= hi)
    if x.nonzero and lo <= 0 <= hi:
        nonzero = lo < 0 < hi
    return of(
        cut.lo,
        cut.hi,
        x,
        soft=soft,
        masked=x.masked and lo == -INF,
        nonzero=nonzero,
        integer=x.integer,
        steep=x.steep and hi == INF,
    )


def bounds_of_clamp(node: Node, ins: Sequence[Range]) -> tuple[float, float]:
    """Return the bounds that a clamp sets; those that it takes from tensors by their ranges."""
    lo, hi = node.attrs.get("min"), node.attrs.get("max")
    if node.attrs.get("min_input") is not None:
        lo = ins[node.attrs["min_input"]].lo
    if node.attrs.get("max_input") is not None:
        hi = ins[node.attrs["max_input"]].hi
    return (-INF if lo is None else float(lo)), (INF if hi is None else float(hi))


@transfers("addcmul", "addcmul_")
def addcmul(node: Node, ins: Sequence[Range], context: Context) -> Range:
    inner = scaled(product(ins[1], ins[2]), float(node.attrs.get("value", 1)))
    return of(ins[0].lo + inner.lo, ins[0].hi + inner.hi, ins[0], inner)


@transfers("addcdiv", "addcdiv_")
def addcdiv(node: Node, ins: Sequence[Range], context: Context) -> Range:
    inner = scaled(quotient(ins[1], ins[2], context), float(node.attrs.get("value", 1)))
    return of(ins[0].lo + inner.lo, ins[0].hi + inner.hi, ins[0], inner)


@transfers("lerp", "lerp_")
def lerp(node: Node, ins: Sequence[Range], context: Context) -> Range:
    weight = ins[2] if len(ins) > 2 else None
    if weight is not None and weight.lo >= 0 and weight.hi <= 1:
        return join(*ins[:2])
    return of(-INF, INF, *ins)


@transfers("atan2")
def atan2(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(-3.1415930, 3.1415930, *ins[:2], soft=False, steep=False)


@transfers("hypot")
def hypot(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(0.0, ins[0].magnitude + ins[1].magnitude, *ins[:2], nonzero=ins[0].nonzero or ins[1].nonzero)


@transfers("logaddexp")
def logaddexp(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    return of(max(a.lo, b.lo), max(a.hi, b.hi) + 0.7, a, b, masked=a.masked and b.masked)


@transfers("xlogy", "xlog1py")
def xlogy(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(-INF, INF, *ins[:2])
