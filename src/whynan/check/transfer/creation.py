"""Leaves: constants, random numbers, data and parameters, and what each may be."""

from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.dtypes import is_float
from whynan.check.graph import Node
from whynan.check.ranges import INF, Range, of
from whynan.check.transfer import transfers

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
