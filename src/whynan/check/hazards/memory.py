"""Memory that nothing was written to."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.hazards import EVERY, Hazard
from whynan.check.ranges import Range


def uninitialized(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if node.attrs.get("uninitialized") and node.stack:
        yield Hazard(
            node.index,
            "uninitialized-memory",
            f"{node.name or 'a parameter'} was made by `empty` and nothing was written to it: it holds "
            "whatever was there",
            ("better-init",),
            certainty=0.95,
        )


EVERY.append(uninitialized)
