"""Asking the graph: which operations, from what, on which line."""

from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.result import Finding, Severity


def relevant(context: Context, *ops: str) -> Iterator[Node]:
    """Yield the operations of these names that reach the loss."""
    found = context.graph.relevant()
    return (n for n in context.graph.nodes if n.op in ops and n.index in found and n.phase == "forward")


def finding(check: str, severity: Severity, message: str, node: Node | None = None, **about: str | None) -> Finding:
    place = node.place if node is not None else None
    return Finding(check, severity, message, place.line if place else None, place.file if place else None, **about)
