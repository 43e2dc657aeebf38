"""What a transfer function may ask besides the ranges of its operands: who made them, and whether two are the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from whynan.check.graph import Graph, Node
from whynan.check.ranges import Range

SHAPES = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "expand",
        "unsqueeze",
        "squeeze",
        "transpose",
        "t",
        "permute",
        "alias",
        "detach",
        "clone",
        "_to_copy",
        "contiguous",
        "flatten",
        "broadcast_in_dim",
        "convert_element_type",
        "stop_gradient",
        "copy",
        "identity",
        "lift_fresh",
        "lift_fresh_copy",
        "to",
        "copy_",
        "reduce_precision",
        "optimization_barrier",
        "expand_as",
        "view_as",
        "movedim",
        "swapaxes",
        "unflatten",
        "name",
        "pjit",
        "expand_dims",
        "resolve_conj",
        "resolve_neg",
        "_conj",
        "real_view",
    ]
)
"""Operations that change how elements lie and not what they are."""

KEEPING = frozenset(
    [
        "alias",
        "detach",
        "clone",
        "_to_copy",
        "contiguous",
        "convert_element_type",
        "stop_gradient",
        "copy",
        "identity",
        "lift_fresh",
        "lift_fresh_copy",
        "to",
        "reduce_precision",
        "optimization_barrier",
        "resolve_conj",
        "resolve_neg",
        "name",
        "expand",
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
    ]
)
"""Of these, those that leave every element in its place where they leave the shape."""


@dataclass
class Context:
    """`growth`: how many times its measured size a learned sum may reach; None for bounds that hold in any case."""

    graph: Graph
    growth: float | None = 16.0
    values: list[Range] = field(default_factory=list)
    same: dict[int, int] = field(default_factory=dict)
    _known: dict[Any, int] = field(default_factory=dict)

    def node(self, index: int) -> Node:
        return self.graph.nodes[index]

    def maker(self, index: int) -> Node:
        """Return the node that made an operand's elements, before they were laid out otherwise."""
        node = self.graph.nodes[index]
        while node.op in SHAPES and node.inputs:
            node = self.graph.nodes[node.inputs[0]]
        return node

    def number(self, index: int) -> float | None:
        """Return the value of an operand that is a plain number."""
        node = self.maker(index)
        if node.op == "constant":
            return float(node.attrs["value"])
        measured = node.measured
        if node.kind == "constant" and measured is not None and measured.lo == measured.hi and not measured.n_nonfinite:
            return measured.lo
        return None

    def is_same(self, a: int, b: int) -> bool:
        """Whether two operands hold the same elements in the same places."""
        return self.same[a] == self.same[b]

    def learn(self, node: Node) -> None:
        """Give the node the number of the first one that computes the same from the same."""
        if not node.inputs or node.kind == "random" or node.op in ("constant", "native_dropout", "bernoulli"):
            if node.op == "constant":
                self.same[node.index] = self._known.setdefault(("constant", node.attrs["value"]), node.index)
            else:
                self.same[node.index] = node.index
            return
        if node.op in KEEPING and node.shape == self.graph.nodes[node.inputs[0]].shape:
            self.same[node.index] = self.same[node.inputs[0]]
            return
        of = tuple(self.same[i] for i in node.inputs)
        attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
        key = (node.op, of, attrs, node.shape, node.in_place and node.index)
        self.same[node.index] = self._known.setdefault(key, node.index)

    def find(self, index: int, ops: Sequence[str], depth: int = 1) -> Node | None:
        """Return the nearest maker of an operand that is one of these, through `depth` operations at most."""
        node = self.maker(index)
        for _ in range(depth):
            if node.op in ops:
                return node
            if not node.inputs:
                return None
            node = self.maker(node.inputs[0])
        return None
