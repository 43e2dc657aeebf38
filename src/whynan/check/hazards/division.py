"""x / y where y may be 0."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of, say
from whynan.check.ranges import Range

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
