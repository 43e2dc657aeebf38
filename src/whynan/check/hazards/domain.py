"""Functions that are defined or smooth on a part of the line only: acos, log, roots, and division by what may be 0."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node, Range
from whynan.check.hazards import Hazard, hazards_of, say


@hazards_of("acos", "asin", "acos_", "asin_", "atanh")
def inverse(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x = ins[0]
    if not x.varies or (x.lo > -1 and x.hi < 1):
        return
    beyond = x.lo < -1 or x.hi > 1
    if not beyond and not out.grad:
        return
    slope = (
        "the value is NaN outside of [-1, 1] and the slope infinite at its ends"
        if beyond
        else "at 1 the slope is infinite"
    )
    yield Hazard(
        node.index,
        "domain-error",
        f"{node.op} takes x in {say(x)}: {slope}",
        ("clamp-or-eps",),
        phase="forward" if beyond or node.op == "atanh" else "backward",
        goal="high" if x.hi >= 1 else "low",
        bound=1.0 if x.hi >= 1 else -1.0,
        certainty=0.85,
    )


@hazards_of("acosh")
def acosh(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if ins[0].varies and ins[0].lo <= 1:
        yield Hazard(
            node.index,
            "domain-error",
            f"acosh takes x in {say(ins[0])}; its domain begins at 1",
            ("clamp-or-eps",),
            goal="low",
            bound=1.0,
        )


@hazards_of("atan2")
def atan2(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if node.attrs.get("guarded") or not out.grad:
        return
    if ins[0].varies and ins[0].may_be_zero and ins[1].may_be_zero:
        yield Hazard(
            node.index,
            "domain-error",
            "atan2(0, 0) has no slope: both operands may be 0",
            ("clamp-or-eps",),
            phase="backward",
            goal="zero",
        )


@hazards_of("norm", "linalg_vector_norm")
def norm(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    """PyTorch gives the norm of a zero vector the slope 0, where the power is 1 or more."""
    p = node.attrs.get("ord", node.attrs.get("p", 2))
    if isinstance(p, (int, float)) and 0 < p < 1 and ins[0].may_be_zero and out.grad:
        yield Hazard(
            node.index,
            "sqrt-at-zero",
            f"a norm of power {p:g} has no slope at 0",
            ("clamp-or-eps",),
            phase="backward",
            goal="zero",
        )


_NAMES = {
    "sigmoid": "a sigmoid reaches 0 and 1 by rounding",
    "logistic": "a sigmoid reaches 0 and 1 by rounding",
    "_softmax": "a softmax reaches 0 by underflow",
    "softmax": "a softmax reaches 0 by underflow",
}


@hazards_of("log", "log2", "log10", "log1p", "log_")
def log_of_zero(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x, edge = ins[0], -1.0 if node.op == "log1p" else 0.0
    is_safe = x.lo > edge or (edge == 0 and x.lo == 0 and x.nonzero)
    if is_safe or not x.varies:
        return
    if x.nonzero and edge == 0 and x.lo < 0:
        yield Hazard(
            node.index,
            "domain-error",
            f"{node.op} takes x in {say(x)}, which may be negative: the value is NaN",
            ("clamp-or-eps",),
            goal="low",
            bound=0.0,
        )
        return
    source = _source(node, context)
    negative = x.lo < edge
    why = f"{node.op} takes x in {say(x)}, which includes {'values below ' if negative else ''}{edge:g}"
    if source:
        why += f": {source}"
    steady = context.find(node.inputs[0], ("sigmoid", "logistic", "_softmax", "softmax"), 3) is not None
    yield Hazard(
        node.index,
        "log-of-zero" if not negative or steady else "domain-error",
        why,
        ("stable-loss", "clamp-or-eps") if steady else ("clamp-or-eps",),
        goal="low",
        bound=edge,
        certainty=0.9 if steady or x.lo == edge else 0.6,
    )


def _source(node: Node, context: Context) -> str:
    maker = context.find(node.inputs[0], tuple(_NAMES), 3)
    return _NAMES[maker.op] if maker is not None else ""


@hazards_of("xlogy", "xlog1py")
def xlogy(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    y = ins[1]
    if y.varies and y.lo < 0:
        yield Hazard(
            node.index,
            "domain-error",
            f"the logarithm is taken of {say(y)}, which may be negative",
            ("clamp-or-eps",),
            operand=1,
            goal="low",
        )


@hazards_of("sqrt", "sqrt_")
def sqrt(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x = ins[0]
    if not x.varies:
        return
    if x.lo < 0:
        yield Hazard(
            node.index,
            "domain-error",
            f"sqrt takes x in {say(x)}, which may be negative: the value is NaN",
            ("clamp-or-eps",),
            goal="low",
        )
    elif x.may_be_zero and out.grad:
        yield Hazard(
            node.index,
            "sqrt-at-zero",
            f"sqrt takes x in {say(x)}; at 0 its slope 1 / (2 sqrt(x)) is infinite",
            ("clamp-or-eps",),
            phase="backward",
            goal="zero",
            certainty=0.8,
        )


@hazards_of("rsqrt")
def rsqrt(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x = ins[0]
    if x.varies and (x.lo < 0 or x.may_be_zero):
        yield Hazard(
            node.index,
            "division-by-zero",
            f"1 / sqrt(x) takes x in {say(x)}, which includes 0",
            ("clamp-or-eps", "larger-eps"),
            goal="zero",
            certainty=0.8,
        )


@hazards_of("pow", "pow_", "integer_pow", "float_power")
def power(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x = ins[0]
    if not x.varies:
        return
    p = node.attrs.get("y") if node.op == "integer_pow" else context.number(node.inputs[1])
    if p is None:
        if x.lo < 0 and not ins[1].integer:
            yield Hazard(
                node.index,
                "domain-error",
                f"a power with base in {say(x)}, which may be negative",
                ("clamp-or-eps",),
                goal="low",
            )
        return
    p = float(p)
    if p != int(p) and x.lo < 0:
        yield Hazard(
            node.index,
            "domain-error",
            f"x ** {p:.4g} takes x in {say(x)}, which may be negative: the value is NaN",
            ("clamp-or-eps",),
            goal="low",
            certainty=0.7,
        )
    elif p < 0 and x.may_be_zero:
        yield Hazard(
            node.index,
            "division-by-zero",
            f"x ** {p:.4g} takes x in {say(x)}, which includes 0",
            ("clamp-or-eps",),
            goal="zero",
            certainty=0.7,
        )
    elif 0 < p < 1 and x.may_be_zero and out.grad:
        yield Hazard(
            node.index,
            "sqrt-at-zero",
            f"x ** {p:.4g} takes x in {say(x)}; at 0 its slope is infinite",
            ("clamp-or-eps",),
            phase="backward",
            goal="zero",
            certainty=0.8,
        )


@hazards_of("cbrt")
def cbrt(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if ins[0].varies and ins[0].may_be_zero and out.grad:
        yield Hazard(
            node.index,
            "sqrt-at-zero",
            f"cbrt takes x in {say(ins[0])}; at 0 its slope is infinite",
            ("clamp-or-eps",),
            phase="backward",
            goal="zero",
        )


_WHAT = {
    "std": "a standard deviation, 0 where all is the same",
    "var": "a variance, 0 where all is the same",
    "sum": "a sum of what may all be 0",
    "sub": "a difference, 0 where both are the same",
    "linalg_vector_norm": "a norm, 0 for the zero vector",
    "norm": "a norm, 0 for the zero vector",
    "sqrt": "a root, 0 at 0",
    "index_add_": "a count, 0 where nothing falls",
    "index_add": "a count, 0 where nothing falls",
    "scatter_add_": "a count, 0 where nothing falls",
    "scatter_add": "a count, 0 where nothing falls",
    "amax": "a maximum, 0 where all is 0",
    "max": "a maximum, 0 where all is 0",
    "mul": "a product",
}


@hazards_of("div", "div_", "true_divide", "divide")
def division(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if len(ins) < 2 or len(node.inputs) < 2:
        return
    yield from _by(node, ins[1], 1, context)


@hazards_of("reciprocal")
def reciprocal(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    yield from _by(node, ins[0], 0, context)


@hazards_of("addcdiv", "addcdiv_")
def addcdiv(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    yield from _by(node, ins[2], 2, context)


def _by(node: Node, divisor: Range, operand: int, context: Context) -> Iterator[Hazard]:
    if not divisor.varies or not divisor.may_be_zero:
        return
    maker = context.maker(node.inputs[operand])
    what = _WHAT.get(maker.op, "")
    why = f"the divisor lies in {say(divisor)}, which includes 0" + (f": it is {what}" if what else "")
    crossing = divisor.lo < 0 < divisor.hi
    # A learned number that crosses zero is a risk; one that ends at zero is where things stop.
    certainty = 0.35 if crossing and divisor.soft else 0.55 if crossing else 0.85
    yield Hazard(
        node.index,
        "division-by-zero",
        why,
        ("clamp-or-eps", "skip-empty" if divisor.integer else "larger-eps"),
        phase="backward" if node.phase == "backward" else "forward",
        operand=operand,
        goal="zero",
        certainty=certainty,
    )
