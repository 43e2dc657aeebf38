"""How far from what was seen a witness lies, where a whole batch must be at fault: nothing picked, all ignored.

That all samples of a batch are empty at once is a matter of how empty single ones are. Each sample of the recorded
batch is tried by itself, as a batch of its copies; where one of them fails, or comes near, so will a batch. Where each
holds plenty the witness is remote.
"""

from typing import Any

import torch

from whynan.check.graph import Graph
from whynan.check.hazards import Hazard

_FEWEST = 4
"""Samples in a batch from which on a batch of nothing but empty ones is another matter than one empty sample."""
_PLENTY = 16
_MOST = 32
Values = dict[int, Any]


def is_of_a_whole_batch(hazard: Hazard, graph: Graph) -> bool:
    """Whether a hazard asks of all elements of a batch together that there be none."""
    if hazard.cause == "empty-reduction":
        return True
    node = graph.nodes[hazard.node]
    if hazard.cause != "division-by-zero" or hazard.operand >= len(node.inputs):
        return False
    divisor = graph.nodes[node.inputs[hazard.operand]]
    return is_count(graph, divisor.index)


def is_count(graph: Graph, index: int) -> bool:
    """Whether an operand is a count of what a mask picks."""
    for _ in range(4):
        node = graph.nodes[index]
        if node.dtype.startswith(("int", "uint")) and node.op in ("sum", "count_nonzero"):
            return True
        if not node.inputs:
            return False
        index = node.inputs[0]
    return False


def batch_size(values: Values) -> int:
    """Return the number of samples of values that all have as many; 0 where they differ."""
    sizes = {v.shape[0] for v in values.values() if v.dim() > 0}
    return sizes.pop() if len(sizes) == 1 else 0


def is_remote(search: Any, hazard: Hazard, phase: str, wanted: set[int], values: Values) -> bool:
    """Whether a witness that changes data alone needs a whole batch unlike every sample that was seen."""
    graph, leaves = search.graph, search.program.leaves
    if not values or any(graph.nodes[i].kind == "parameter" for i in values) or not is_of_a_whole_batch(hazard, graph):
        return False
    n = batch_size(values)
    if n < _FEWEST:
        return False
    one = {i: torch.cat([v[:1], leaves[i][1:]]) for i, v in values.items() if v.shape == leaves[i].shape}
    if len(one) < len(values) or search.fails(hazard, phase, wanted, one):
        return False
    needed = graph.ancestors(graph.nodes[hazard.node].inputs[hazard.operand])
    for k in range(min(n, _MOST)):
        copies = {i: leaves[i][k : k + 1].expand_as(leaves[i]).clone() for i in values}
        left = _left(search, hazard, needed, copies)
        if left is None or left / n < _PLENTY:
            return False
    return True


def _left(search: Any, hazard: Hazard, needed: set[int], values: Values) -> float | None:
    """Return how much is left of what must not be empty."""
    node = search.graph.nodes[hazard.node]
    operand = node.inputs[hazard.operand]
    try:
        with torch.no_grad():
            x = search.program.run(needed, values, search.graph)[operand]
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError):
        return None
    if hazard.goal == "constant":
        return float((x != hazard.bound).sum())
    return float(x.numel()) if hazard.goal == "empty" else float(x.abs().min()) if x.numel() else 0.0
