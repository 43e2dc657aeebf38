"""sqrt and fractional powers: outside of their domain below 0, of infinite slope at 0."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of, say
from whynan.check.ranges import Range


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
