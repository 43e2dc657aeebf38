"""float16: sums and products of ordinary size leave it at 65504, and small constants vanish in it."""

from collections.abc import Iterator, Sequence

from whynan.check.context import SHAPES, Context
from whynan.check.dtypes import SMALLEST, is_half, largest
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of, say
from whynan.check.ranges import Range
from whynan.check.words import number

_QUIET = (SHAPES - {"_to_copy", "convert_element_type"}) | {"item", "constant", "exp", "log", "div", "written", "relu"}


@hazards_of()
def overflow(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if not is_half(node.dtype) or node.kind != "op" or node.op in _QUIET or not out.varies or node.measured is None:
        return
    top = largest(node.dtype)
    if (
        out.magnitude > top
        and node.measured.magnitude > top / 4096
        and all(r.magnitude <= top for r in ins if r.varies)
    ):
        yield Hazard(
            node.index,
            "half-precision-overflow",
            f"{node.op} gave up to {number(node.measured.magnitude)} in this step and may reach "
            f"{number(out.magnitude)}; float16 ends at 65504",
            ("full-precision", "normalize-inputs"),
            goal="high",
            bound=top,
            certainty=0.6,
        )


@hazards_of("add", "add_", "clamp", "clamp_min", "clamp_", "maximum")
def vanishing_constant(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    """An epsilon that float16 rounds to 0 guards nothing."""
    if not is_half(node.dtype):
        return
    value = node.attrs.get("min")
    if value is None and len(node.inputs) > 1:
        value = context.number(node.inputs[1])
    if value is not None and 0 < abs(float(value)) < SMALLEST[node.dtype] / 2:
        yield Hazard(
            node.index,
            "half-precision-underflow",
            f"{number(float(value))} is 0 in float16, whose smallest number is {number(SMALLEST['float16'])}: "
            f"it guards nothing against x in {say(ins[0])}",
            ("larger-eps", "full-precision"),
            certainty=0.9,
        )
