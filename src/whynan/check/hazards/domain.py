"""Functions that are defined on a part of the line only: acos, asin, atanh, acosh, and atan2 at the origin."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of, say
from whynan.check.ranges import Range


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
