"""Comparisons and logic, `where` with what its condition says of the branches, and counts of masks."""

from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import INF, Range, join, of
from whynan.check.transfer import transfers

FLIPPED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge", "eq": "eq", "ne": "ne"}
NEGATED = {"gt": "le", "lt": "ge", "ge": "lt", "le": "gt", "eq": "ne", "ne": "eq"}


def truth(*operands: Range, always: bool = False, never: bool = False) -> Range:
    """Return the range of a mask."""
    return of(
        1.0 if always else 0.0,
        0.0 if never else 1.0,
        *operands,
        integer=True,
        soft=False,
        grad=False,
        steep=False,
        masked=False,
    )


@transfers("gt", "lt", "ge", "le", "eq", "ne")
def compare(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    op = node.op
    if op in ("lt", "le"):
        a, b, op = b, a, FLIPPED[op]
    always = never = False
    if not a.soft and not b.soft:
        if op == "gt":
            always, never = a.lo > b.hi, a.hi <= b.lo
        elif op == "ge":
            always, never = a.lo >= b.hi, a.hi < b.lo
        elif op == "eq":
            always, never = a.lo == a.hi == b.lo == b.hi, a.hi < b.lo or a.lo > b.hi
        elif op == "ne":
            always, never = a.hi < b.lo or a.lo > b.hi, a.lo == a.hi == b.lo == b.hi
    return truth(a, b, always=always, never=never)


@transfers("logical_and", "bitwise_and", "and", "__and__")
def both(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    if node.dtype != "bool":
        return of(min(a.lo, b.lo, 0.0), max(a.hi, b.hi), a, b, nonzero=False, integer=True)
    return truth(a, b, always=a.lo == 1 and b.lo == 1, never=a.hi == 0 or b.hi == 0)


@transfers("logical_or", "bitwise_or", "or", "__or__")
def either(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a, b = ins[:2]
    if node.dtype != "bool":
        return of(-INF, INF, a, b, integer=True)
    return truth(a, b, always=a.lo == 1 or b.lo == 1, never=a.hi == 0 and b.hi == 0)


@transfers("logical_not", "bitwise_not", "not", "__invert__")
def no(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a = ins[0]
    if node.dtype != "bool":
        return of(-INF, INF, a, integer=True)
    return truth(a, always=a.hi == 0, never=a.lo == 1)


@transfers(
    "isnan", "isinf", "isfinite", "is_finite", "any", "all", "reduce_or", "reduce_and", "bitwise_xor", "logical_xor"
)
def asked(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return truth(*ins)


@transfers("where", "select_n")
def where(node: Node, ins: Sequence[Range], context: Context) -> Range:
    if node.op == "select_n":  # the operand of a false condition comes first
        if len(ins) < 3:
            return join(*ins[1:])
        condition, no_, yes = node.inputs[0], 1, 2
    else:
        condition, yes, no_ = node.inputs[0], 1, 2
    if len(ins) < 3:
        return of(0.0, INF, *ins, integer=True)
    a = refined(ins[yes], node.inputs[yes], condition, True, context)
    b = refined(ins[no_], node.inputs[no_], condition, False, context)
    numbers = [context.number(node.inputs[i]) for i in (yes, no_)]
    if ins[0].lo == 1 and not ins[0].varies:
        return a
    if ins[0].hi == 0 and not ins[0].varies:
        return b
    kept = [r for r, number in zip((a, b), numbers) if number != -INF]
    out = join(*kept) if kept else of(0.0, 0.0, *ins)
    masked = out.masked or -INF in numbers
    return of(
        out.lo,
        out.hi,
        *ins,
        masked=masked,
        soft=any(r.soft for r in kept),
        nonzero=out.nonzero,
        steep=out.steep,
        integer=out.integer,
    )


def refined(value: Range, index: int, condition: int, holds: bool, context: Context) -> Range:
    """Return what is left of an operand's range where a condition holds, or where it does not."""
    node = context.maker(condition)
    if node.op in ("logical_and", "bitwise_and", "and", "__and__") and holds:
        for part in node.inputs[:2]:
            value = refined(value, index, part, True, context)
        return value
    if node.op in ("logical_or", "bitwise_or", "or", "__or__") and not holds:
        for part in node.inputs[:2]:
            value = refined(value, index, part, False, context)
        return value
    if node.op in ("logical_not", "bitwise_not", "not", "__invert__"):
        return refined(value, index, node.inputs[0], not holds, context)
    if node.op not in FLIPPED or len(node.inputs) < 2:
        return value
    left, right = node.inputs[:2]
    op = node.op if holds else NEGATED[node.op]
    if context.is_same(index, right) and not context.is_same(index, left):
        left, right, op = right, left, FLIPPED[op]
    if not context.is_same(index, left):
        value_maker, left_maker = context.maker(index), context.maker(left)
        # |x| > c says as much of x as of its sign: it is not 0.
        is_absolute = left_maker.op == "abs" and context.is_same(index, left_maker.inputs[0])
        if is_absolute and op in ("gt", "ne") and context.values[right].lo >= 0 and value_maker is not None:
            return of(value.lo, value.hi, value, nonzero=True)
        return value
    bound = context.values[right]
    if op == "gt":
        return of(max(value.lo, bound.lo), max(value.hi, bound.lo), value, nonzero=value.nonzero or bound.lo >= 0)
    if op == "ge":
        return of(max(value.lo, bound.lo), max(value.hi, bound.lo), value, nonzero=value.nonzero or bound.lo > 0)
    if op == "lt":
        return of(min(value.lo, bound.hi), min(value.hi, bound.hi), value, nonzero=value.nonzero or bound.hi <= 0)
    if op == "le":
        return of(min(value.lo, bound.hi), min(value.hi, bound.hi), value, nonzero=value.nonzero or bound.hi < 0)
    if op == "eq":
        return of(max(value.lo, bound.lo), min(value.hi, bound.hi), value) if bound.hi >= value.lo else value
    return of(value.lo, value.hi, value, nonzero=value.nonzero or bound.lo == bound.hi == 0)


@transfers("masked_fill", "masked_fill_")
def masked_fill(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x, mask = ins[:2]
    fill = context.number(node.inputs[2])
    if mask.hi == 0 and not mask.varies:
        return x
    kept = refined(x, node.inputs[0], node.inputs[1], False, context)
    if fill == -INF:
        return of(kept.lo, kept.hi, *ins[:2], masked=True, soft=x.soft)
    return of(
        min(kept.lo, ins[2].lo),
        max(kept.hi, ins[2].hi),
        *ins,
        soft=x.soft,
        masked=x.masked,
        nonzero=kept.nonzero and ins[2].nonzero,
        integer=x.integer and ins[2].integer,
    )
