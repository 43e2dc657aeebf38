"""Transfer functions: the range of an operation's output from those of its operands. One family a file."""

from collections.abc import Callable, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import Range

Transfer = Callable[[Node, Sequence[Range], Context], Range]
TRANSFERS: dict[str, Transfer] = {}


def transfers(*names: str) -> Callable[[Transfer], Transfer]:
    """Register a transfer function for these operations."""

    def register(function: Transfer) -> Transfer:
        for name in names:
            TRANSFERS[name] = function
        return function

    return register


def load() -> dict[str, Transfer]:
    """Return every transfer function by operation, all families imported."""
    from whynan.check.transfer import arithmetic, creation, elementwise, reductions, shapes  # noqa: F401

    return TRANSFERS
