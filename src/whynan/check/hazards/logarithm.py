"""log(x) where x may be 0 or less."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of, say
from whynan.check.ranges import Range

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
