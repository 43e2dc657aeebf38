"""What two operands know of each other: a maximum subtracted from its own tensor, a share of a sum, a vector by its norm."""

from collections.abc import Sequence
from typing import Literal

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import Range, of

MAXIMA = ("amax", "max", "max.dim", "reduce_max", "cummax")
MINIMA = ("amin", "min", "min.dim", "reduce_min")
SUMS = ("sum", "reduce_sum", "nansum")


def difference_from_extreme(left: int, right: int, context: Context) -> Literal["below", "above"] | None:
    """Tell whether left - right is never positive (right is left's maximum) or never negative."""
    maker = context.maker(right)
    if maker.op == "item" and maker.attrs.get("index", 0) == 0:
        maker = context.maker(maker.inputs[0])
    if maker.op in MAXIMA and maker.inputs and context.is_same(left, maker.inputs[0]):
        return "below"
    if maker.op in MINIMA and maker.inputs and context.is_same(left, maker.inputs[0]):
        return "above"
    if maker.op in ("maximum", "minimum", "clamp_min", "clamp", "clamp_max"):
        if maker.op in ("maximum", "clamp_min") and any(context.is_same(left, i) for i in maker.inputs):
            return "below"
        if maker.op == "minimum" and any(context.is_same(left, i) for i in maker.inputs):
            return "above"
    mirrored = context.maker(left)
    if mirrored.op == "maximum" and any(context.is_same(right, i) for i in mirrored.inputs):
        return "above"
    if mirrored.op == "minimum" and any(context.is_same(right, i) for i in mirrored.inputs):
        return "below"
    return None


def unit_share(node: Node, ins: Sequence[Range], context: Context) -> Range | None:
    """Return the range of x / sum(x) for x >= 0, and of x / |x|, both within one; None where it is neither."""
    top, bottom = node.inputs[:2]
    divisor = context.maker(bottom)
    while divisor.op in ("clamp_min", "clamp", "add", "maximum") and divisor.inputs:
        # A divisor that was made larger makes the share smaller.
        if divisor.op == "add" and len(ins) > 1 and context.values[divisor.inputs[-1]].lo < 0:
            return None
        divisor = context.maker(divisor.inputs[0])
    x = ins[0]
    if divisor.op in SUMS and x.lo >= 0 and divisor.inputs and context.is_same(top, divisor.inputs[0]):
        return of(0.0, 1.0, *ins[:2], soft=False, nonzero=False, steep=False)
    if divisor.op in ("linalg_vector_norm", "norm") and divisor.inputs and context.is_same(top, divisor.inputs[0]):
        # Rounding takes a unit vector's element past one by a hair: that is what acos at its end is about.
        return of(-1.0, 1.0, *ins[:2], soft=False, nonzero=False, steep=False)
    if divisor.op == "sqrt" and divisor.inputs:
        inner = context.maker(divisor.inputs[0])
        if inner.op == "add":
            inner = context.maker(inner.inputs[0])
        if inner.op in SUMS:
            squared = context.maker(inner.inputs[0])
            if squared.op in ("pow", "square", "mul", "integer_pow") and context.is_same(top, squared.inputs[0]):
                return of(-1.0, 1.0, *ins[:2], soft=False, nonzero=False, steep=False)
    return None


def is_unit_vectors(index: int, context: Context) -> bool:
    """Whether an operand's rows were divided by their own norm."""
    maker = context.maker(index)
    if maker.op != "div" or len(maker.inputs) < 2:
        return False
    divisor = context.maker(maker.inputs[1])
    while divisor.op in ("clamp_min", "clamp", "add", "maximum") and divisor.inputs:
        divisor = context.maker(divisor.inputs[0])
    if divisor.op in ("linalg_vector_norm", "norm"):
        return True
    return divisor.op == "sqrt" and context.find(divisor.index, ("sum", "reduce_sum"), 3) is not None
