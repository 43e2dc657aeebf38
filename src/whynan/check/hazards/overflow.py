"""exp of what may grow past the type's limit, products of such; float16, which sums of ordinary size leave at 65504."""

from collections.abc import Iterator, Sequence

from whynan.check.context import SHAPES, Context
from whynan.check.dtypes import SMALLEST, exp_limit, is_half, largest, number
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of, say
from whynan.check.ranges import Range


@hazards_of("exp", "expm1", "exp2", "exp_", "sinh", "cosh")
def overflow(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x, limit = ins[0], exp_limit(node.dtype)
    if node.op == "exp2":
        limit /= 0.6931471805599453
    # What a hand-written derivative is given only training tells; nobody has guarded it for the framework's users.
    is_open = node.custom is not None and x.soft and x.hi > 0
    if x.varies and (x.hi > limit or is_open):
        yield Hazard(
            node.index,
            "exp-overflow" if node.dtype != "float16" else "half-precision-overflow",
            f"{node.op} takes x in {say(x)}; above {number(limit)} it overflows {node.dtype}",
            ("clamp-or-eps", "stable-loss"),
            phase="backward" if node.phase == "backward" else "forward",
            goal="high",
            bound=limit,
            certainty=0.7,
        )


@hazards_of("mul", "mul_", "square", "pow", "integer_pow")
def product(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    """Two factors that each grow like an exponential overflow where neither has yet."""
    factors = ins[:2] if node.op.startswith("mul") else [ins[0], ins[0]]
    if node.op in ("pow", "integer_pow"):
        p = node.attrs.get("y") if node.op == "integer_pow" else context.number(node.inputs[1])
        if p is None or float(p) < 2:
            return
    top = largest(node.dtype)
    root = top ** (0.125 if node.custom is not None else 0.5)
    if all(r.steep and r.varies and r.magnitude > root for r in factors):
        yield Hazard(
            node.index,
            "exp-overflow",
            f"a product of two exponentials grows faster than either, and overflows {node.dtype} before they do",
            ("stable-loss", "clamp-or-eps"),
            goal="high",
            bound=top,
            phase="backward" if node.phase == "backward" else "forward",
            certainty=0.6,
        )


@hazards_of("pow", "pow_")
def variable_exponent(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    base = context.number(node.inputs[0]) if node.inputs else None
    if base is not None and base > 1 and ins[1].varies and out.hi > largest(node.dtype):
        yield Hazard(
            node.index,
            "exp-overflow",
            f"{number(base)} ** y takes y in {say(ins[1])}: it overflows {node.dtype}",
            ("clamp-or-eps",),
            operand=1,
            goal="high",
            bound=ins[1].hi * 0.9,
        )


_QUIET = (SHAPES - {"_to_copy", "convert_element_type"}) | {"item", "constant", "exp", "log", "div", "written", "relu"}


@hazards_of()
def half_overflow(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
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
