"""Asking the graph: which operations, from what, on which line."""

from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.result import Finding, Severity

PROBABILITIES = ("sigmoid", "_softmax", "softmax", "logistic", "hardsigmoid")
ROUNDING = ("clamp", "clamp_min", "clamp_max", "clip")


def relevant(context: Context, *ops: str) -> Iterator[Node]:
    """Yield the operations of these names that reach the loss."""
    found = context.graph.relevant()
    return (n for n in context.graph.nodes if n.op in ops and n.index in found and n.phase == "forward")


def made_by(context: Context, index: int, ops: tuple[str, ...]) -> Node | None:
    """Return the operation that made an operand, past clamps and changes of shape, if it is one of `ops`."""
    node = context.maker(index)
    while node.op in ROUNDING and node.inputs:
        node = context.maker(node.inputs[0])
    return node if node.op in ops else None


def finding(check: str, severity: Severity, message: str, node: Node | None = None, **about: str | None) -> Finding:
    place = node.place if node is not None else None
    return Finding(check, severity, message, place.line if place else None, place.file if place else None, **about)
