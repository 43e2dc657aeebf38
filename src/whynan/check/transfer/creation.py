"""Ranges of what comparisons and choices give, and of newly made tensors."""

from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.graph import INF, Node, Range, is_float, join, of
from whynan.check.transfer import transfers

FLIPPED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge", "eq": "eq", "ne": "ne"}
NEGATED = {"gt": "le", "lt": "ge", "ge": "lt", "le": "gt", "eq": "ne", "ne": "eq"}


def truth(*operands: Range, always: bool = False, never: bool = False) -> Range:
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


UNIFORM = ("rand", "rand_like", "uniform_", "uniform", "random_uniform")
NORMAL = ("randn", "randn_like", "normal", "normal_", "random_normal")


def leaf(node: Node, context: Context) -> Range:
    """Return the range of a node that nothing of the graph was made into.

    Data may be anything between what was seen. A parameter may move by as much as its largest element; one that is a
    single number keeps its sign, as a temperature would.
    """
    measured = node.measured
    integer = not is_float(node.dtype)
    if measured is None:
        return Range(varies=node.kind != "constant", integer=integer)
    lo, hi = measured.lo, measured.hi
    if node.kind == "constant":
        masked = bool(node.attrs.get("has_minus_inf")) or node.attrs.get("value") == -INF
        return Range(lo, hi, nonzero=measured.least > 0, integer=integer, varies=False, masked=masked)
    if node.kind == "parameter":
        return parameter(lo, hi, node, context)
    if node.kind == "gradient":
        reach = 16 * measured.magnitude if measured.magnitude else 1.0
        return Range(-reach, reach, soft=True, grad=bool(node.attrs.get("requires_grad")))
    if node.kind == "state":
        reach = context.growth or 1.0
        return Range(lo * reach if lo < 0 else 0.0, hi * reach, nonzero=False, integer=integer)
    return Range(
        lo,
        hi,
        nonzero=lo > 0 or hi < 0,
        integer=integer,
        masked=bool(node.attrs.get("has_minus_inf")),
        grad=bool(node.attrs.get("requires_grad")),
    )


def parameter(lo: float, hi: float, node: Node, context: Context) -> Range:
    if context.growth is None:
        return Range(lo, hi, grad=True)
    # A scale near one stays positive, as the weights of a normalisation do; others move by as much as they are.
    distance = max(abs(lo), abs(hi), 0.5)
    if node.attrs.get("bounded"):
        distance = 0.5 * min(abs(lo), abs(hi))
    return Range(lo - distance, hi + distance, soft=True, grad=True)


@transfers(
    "constant",
    "full",
    "zeros",
    "ones",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "arange",
    "linspace",
    "eye",
    "scalar_tensor",
    "fill",
    "fill_",
    "zero_",
    "zero",
    "iota",
    "tril_indices",
    "triu_indices",
    "hann_window",
    "logspace",
    "new_tensor",
    "empty_filled",
)
def constant(node: Node, ins: Sequence[Range], context: Context) -> Range:
    measured = node.measured
    if measured is None:
        if "value" in node.attrs:
            value = float(node.attrs["value"])
            masked = value == -INF
            return Range(
                0.0 if masked else value, 0.0 if masked else value, nonzero=value != 0, varies=False, masked=masked
            )
        return Range(varies=False)
    filled = node.attrs.get("fill_value", node.attrs.get("value"))
    masked = isinstance(filled, float) and filled == -INF
    masked = masked or bool(node.attrs.get("has_minus_inf"))
    varies = node.op.startswith("fill") and len(ins) > 1 and ins[1].varies
    if varies:
        return ins[1]
    return Range(
        measured.lo,
        measured.hi,
        nonzero=measured.least > 0,
        integer=not is_float(node.dtype),
        varies=False,
        masked=masked,
    )


@transfers(*UNIFORM)
def uniform(node: Node, ins: Sequence[Range], context: Context) -> Range:
    low = float(node.attrs.get("from", 0.0) or 0.0)
    high = float(node.attrs.get("to", 1.0) if node.attrs.get("to") is not None else 1.0)
    return Range(low, high, nonzero=low > 0)


@transfers(*NORMAL)
def normal(node: Node, ins: Sequence[Range], context: Context) -> Range:
    mean, std = float(node.attrs.get("mean", 0.0) or 0.0), float(node.attrs.get("std", 1.0) or 1.0)
    return Range(mean - 10 * std, mean + 10 * std)


@transfers("bernoulli", "bernoulli_", "native_dropout_mask")
def bernoulli(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return Range(0.0, 1.0, integer=True)


@transfers("randint", "randperm", "multinomial", "random_", "random_bits", "random_wrap", "random_unwrap")
def drawn(node: Node, ins: Sequence[Range], context: Context) -> Range:
    measured = node.measured
    return Range(min(measured.lo, 0.0), measured.hi, integer=True) if measured else Range(0.0, INF, integer=True)


@transfers("native_dropout", "dropout", "dropout_", "alpha_dropout")
def dropout(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    keep = 1 - float(node.attrs.get("p", 0.5) or 0.0)
    scale = 1 / keep if keep > 0 else 0.0
    return of(min(x.lo * scale, 0.0), max(x.hi * scale, 0.0), x, nonzero=False, masked=x.masked)


@transfers("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
def uninitialized(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return Range(-INF, INF, varies=False)
