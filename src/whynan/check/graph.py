"""The operation graph of one step, free of any framework: what was computed from what, on which line."""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["op", "constant", "parameter", "data", "state", "random", "gradient"]
"""What a node is: an operation, or a leaf. `state` is what the model carries along (a running mean), `gradient` what a
backward pass hands to a hand-written derivative."""


@dataclass(frozen=True)
class Place:
    file: str
    line: int
    function: str
    code: str = ""


@dataclass(frozen=True)
class Measured:
    """What one run of the node has shown, over its finite elements; `n_nonfinite` counts the others."""

    lo: float
    hi: float
    least: float
    """The smallest absolute value."""
    n_nonfinite: int = 0

    @property
    def magnitude(self) -> float:
        return max(abs(self.lo), abs(self.hi))


@dataclass
class Node:
    """One value of the step. `inputs` are numbers of earlier nodes; plain numbers are constant nodes of their own."""

    index: int
    op: str
    inputs: tuple[int, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    kind: Kind = "op"
    measured: Measured | None = None
    stack: tuple[Place, ...] = ()
    module: str | None = None
    differentiable: bool = True
    """Whether automatic differentiation is to go through this operation."""
    phase: str = "forward"
    custom: str | None = None
    """The hand-written derivative that this operation is part of."""
    in_place: bool = False
    name: str | None = None
    """A leaf's name, where it has one."""

    @property
    def place(self) -> Place | None:
        return self.stack[0] if self.stack else None

    @property
    def size(self) -> int:
        product = 1
        for n in self.shape:
            product *= n
        return product


@dataclass(frozen=True)
class Asked:
    """A number that the program read out of the graph to decide something, before node `before` was made."""

    node: int
    before: int
    place: Place | None


@dataclass
class Graph:
    """Nodes in the order in which they were made; `roots` are what gradients were asked of, or what is kept."""

    nodes: list[Node] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def add(self, op: str, **about: Any) -> Node:
        node = Node(len(self.nodes), op, **about)
        self.nodes.append(node)
        return node

    def constant(self, value: float | bool) -> Node:
        number = float(value)
        return self.add(
            "constant",
            kind="constant",
            attrs={"value": number},
            dtype="bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float64",
            measured=Measured(number, number, abs(number))
            if number == number and abs(number) != float("inf")
            else None,
        )

    def ancestors(self, index: int) -> set[int]:
        """Return the nodes that `index` was made from, itself included."""
        seen: set[int] = set()
        todo = [index]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen.add(current)
                todo.extend(self.nodes[current].inputs)
        return seen

    def relevant(self) -> set[int]:
        """Return the nodes that reach a root or belong to a hand-written derivative."""
        found: set[int] = set()
        todo = [
            *self.roots,
            *(node.index for node in self.nodes if node.custom is not None and node.phase == "backward"),
        ]
        while todo:
            current = todo.pop()
            if current not in found:
                found.add(current)
                todo.extend(self.nodes[current].inputs)
        return found
