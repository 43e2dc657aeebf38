"""What a transfer function may ask besides ranges: who made its operands, and what two know of each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from whynan.check.graph import Graph, Node, Range, of

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


MAXIMA = ("amax", "max", "max.dim", "reduce_max", "cummax")
MINIMA = ("amin", "min", "min.dim", "reduce_min")
SUMS = ("sum", "reduce_sum", "nansum")


def difference_from_extreme(left: int, right: int, context: Context) -> Literal["below", "above"] | None:
    """Tell whether left - right is never positive (right is left's maximum) or never negative."""
    maker = context.maker(right)
    if maker.op == "item" and maker.attrs.get("index", 0) == 0:
        maker = context.maker(maker.inputs[0])
    if maker.op in ("where", "select_n") and context.maker(maker.inputs[0]).op in ("isfinite", "is_finite"):
        # A maximum that was made finite first: where it is -inf, so is all it is taken from.
        branches = [_without_floor(context.maker(i), context) for i in maker.inputs[1:]]
        maker = next((b for b in branches if b.op in MAXIMA), maker)
    maker = _without_floor(maker, context)
    if maker.op in MAXIMA and maker.inputs and context.is_same(left, maker.inputs[0]):
        return "below"
    if maker.op in MINIMA and maker.inputs and context.is_same(left, maker.inputs[0]):
        return "above"
    if maker.op in ("maximum", "minimum", "clamp_min", "clamp", "clamp_max"):
        if maker.op in ("maximum", "clamp_min") and any(context.is_same(left, i) for i in maker.inputs):
            return "below"
        if maker.op == "minimum" and any(context.is_same(left, i) for i in maker.inputs):
            return "above"
    mirrored = context.maker(left)
    if mirrored.op == "maximum" and any(context.is_same(right, i) for i in mirrored.inputs):
        return "above"
    if mirrored.op == "minimum" and any(context.is_same(right, i) for i in mirrored.inputs):
        return "below"
    return None


def _without_floor(maker: Node, context: Context) -> Node:
    """Return the maximum itself of maximum(-inf, max(x)), which is how a reduction begins."""
    if maker.op == "maximum" and any(context.number(i) == float("-inf") for i in maker.inputs):
        return next((m for i in maker.inputs if (m := context.maker(i)).op in MAXIMA), maker)
    return maker


def unit_share(node: Node, ins: Sequence[Range], context: Context) -> Range | None:
    """Return the range of x / sum(x) for x >= 0, and of x / |x|, both within one; None where it is neither."""
    top, bottom = node.inputs[:2]
    divisor = context.maker(bottom)
    while divisor.op in ("clamp_min", "clamp", "add", "maximum") and divisor.inputs:
        # A divisor that was made larger makes the share smaller.
        if divisor.op == "add" and len(ins) > 1 and context.values[divisor.inputs[-1]].lo < 0:
            return None
        divisor = context.maker(divisor.inputs[0])
    x = ins[0]
    if divisor.op in SUMS and x.lo >= 0 and divisor.inputs and context.is_same(top, divisor.inputs[0]):
        return of(0.0, 1.0, *ins[:2], soft=False, nonzero=False, steep=False)
    if divisor.op in ("linalg_vector_norm", "norm") and divisor.inputs and context.is_same(top, divisor.inputs[0]):
        # Rounding takes a unit vector's element past one by a hair: that is what acos at its end is about.
        return of(-1.0, 1.0, *ins[:2], soft=False, nonzero=False, steep=False)
    if divisor.op == "sqrt" and divisor.inputs:
        inner = context.maker(divisor.inputs[0])
        if inner.op == "add":
            inner = context.maker(inner.inputs[0])
        if inner.op in SUMS:
            squared = context.maker(inner.inputs[0])
            if squared.op in ("pow", "square", "mul", "integer_pow") and context.is_same(top, squared.inputs[0]):
                return of(-1.0, 1.0, *ins[:2], soft=False, nonzero=False, steep=False)
    return None


def is_unit_vectors(index: int, context: Context) -> bool:
    """Whether an operand's rows were divided by their own norm."""
    maker = context.maker(index)
    if maker.op != "div" or len(maker.inputs) < 2:
        return False
    divisor = context.maker(maker.inputs[1])
    while divisor.op in ("clamp_min", "clamp", "add", "maximum") and divisor.inputs:
        divisor = context.maker(divisor.inputs[0])
    if divisor.op in ("linalg_vector_norm", "norm"):
        return True
    return divisor.op == "sqrt" and context.find(divisor.index, ("sum", "reduce_sum"), 3) is not None


def mask_varies(node: Node, context: Context) -> bool:
    """Whether some -inf on the way to this node was put where data, and no constant, said so."""
    todo, seen = [node.inputs[0]], set()
    while todo:
        index = todo.pop()
        if index in seen or not context.values[index].masked:
            continue
        seen.add(index)
        maker = context.node(index)
        if maker.op in ("masked_fill", "masked_fill_", "where", "select_n"):
            which = 0 if maker.op in ("where", "select_n") else 1
            others = [i for k, i in enumerate(maker.inputs) if k != which and context.number(i) is None]
            mask = context.values[maker.inputs[which]]
            numbers = [context.number(i) for i in maker.inputs]
            # What a mask selects is -inf, or what is kept.
            selected = {"where": 1, "select_n": 2}.get(maker.op, 2)
            hides = selected < len(numbers) and numbers[selected] == float("-inf")
            if float("-inf") in numbers and mask.varies and not _is_kept_open(maker.inputs[which], hides, context):
                return True
            todo.extend(others)
        elif maker.kind == "data" and maker.attrs.get("has_minus_inf"):
            return True
        else:
            todo.extend(maker.inputs)
    return False


def _is_kept_open(mask: int, hides: bool, context: Context) -> bool:
    """Whether a part of a mask was set so that it keeps: then no row that it is part of is masked as a whole.

    Args:
        mask: the mask's node.
        hides: whether an element that is true is masked, else one that is false.
        context: the graph with its ranges.
    """
    node = context.maker(mask)
    while node.inputs:
        if node.op in ("bitwise_not", "logical_not"):
            hides = not hides
        elif node.op in (("bitwise_and", "logical_and") if hides else ("bitwise_or", "logical_or")):
            if any(_is_partly_open(i, hides, context) for i in node.inputs[:2]):
                return True
        elif node.op == "written":
            if len(node.inputs) > 1 and context.number(node.inputs[1]) == (0 if hides else 1):
                return True
        elif node.op not in ("slice", "select", "alias", "bitwise_and", "logical_and", "bitwise_or", "logical_or"):
            return False
        node = context.maker(node.inputs[0])
    return False


def _is_partly_open(mask: int, hides: bool, context: Context) -> bool:
    """Whether a mask is a constant that keeps something, as the one that spares the diagonal."""
    value, measured = context.values[mask], context.node(mask).measured
    return not value.varies and measured is not None and (measured.lo == 0 if hides else measured.hi == 1)
