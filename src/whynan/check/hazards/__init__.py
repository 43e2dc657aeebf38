"""What makes an operation's value or derivative non-finite, asked of its operands' ranges. One family a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from whynan.check.context import Context
from whynan.check.graph import Node, Range

Goal = Literal["zero", "low", "high", "empty", "equal", "constant", "none"]
"""Where a witness must bring the operand: to 0, below a bound, above one, to no elements at all, to a constant."""


@dataclass(frozen=True)
class Hazard:
    """One way in which a node goes non-finite. `operand` is the place among its inputs that decides."""

    node: int
    cause: str
    why: str
    remedies: tuple[str, ...]
    phase: Literal["forward", "backward"] = "forward"
    operand: int = 0
    goal: Goal = "none"
    bound: float = 0.0
    certainty: float = 0.5
    """How often a hazard of this kind is a real one, for the order in which they are shown."""


Finder = Callable[[Node, Sequence[Range], Range, Context], Iterator[Hazard]]
FINDERS: dict[str, list[Finder]] = {}
EVERY: list[Finder] = []


def hazards_of(*names: str) -> Callable[[Finder], Finder]:
    """Register a finder for these operations; without names for all of them."""

    def register(function: Finder) -> Finder:
        for name in names:
            FINDERS.setdefault(name, []).append(function)
        if not names:
            EVERY.append(function)
        return function

    return register


def load() -> None:
    from whynan.check.hazards import domain, numbers  # noqa: F401


def say(x: Range) -> str:
    """Return an operand's range in words, with what it is known not to be."""
    from whynan.check.graph import number

    if x.lo == x.hi:
        return number(x.lo)
    return f"[{number(x.lo)}, {number(x.hi)}]" + (" without 0" if x.nonzero and x.lo < 0 < x.hi else "")
