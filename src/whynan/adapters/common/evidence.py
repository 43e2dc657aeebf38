"""Facts about the origin that causes are matched on, measured on the graph of a replayed step."""

from typing import Any

from whynan.adapters.common.arrays import all_finite, is_floating
from whynan.adapters.common.graph import Graph, Node
from whynan.slicing.origin import Slice
from whynan.trace.graph import OpRecord

_SQUASHES = {"sigmoid", "softmax", "log_softmax", "clip", "clip_by_value", "log_sigmoid", "maximum", "minimum"}
_LAYERS = {"matmul", "conv2d", "conv", "einsum"}
_SPREADS = {"std", "var", "squared_difference", "moments", "nanstd", "nanvar"}
_NORMALISES = {"div", "sqrt", "rsqrt", "std", "var", "reciprocal", "norm"}
_NEAR = 8


def special_facts(graph: Graph, found: Slice) -> dict[str, Any]:
    """Return fields of `Evidence` by name, as far as the graph tells them."""
    record = found.origin
    facts: dict[str, Any] = {"extra": {}}
    if record is None:
        return facts
    node = graph.nodes[record.index]
    arrays = graph.kept.get(record.index, {})
    near = [ancestor.name for ancestor in graph.ancestors(node.inputs)]
    facts["intended_infinity"] = found.intended
    facts["masked_rows"] = _masked_rows(record, arrays)
    facts["reduces_nothing"] = _reduces_nothing(graph, node, arrays)
    facts["in_custom_function"] = record.custom
    facts["custom_input_nonfinite"] = bool(record.edges)
    facts["through_where"] = _through_where(graph, node, found)
    facts["zero_variance"] = _zero_variance(graph, node, facts["reduces_nothing"])
    facts["logits_as_probabilities"] = _takes_logits(record, near)
    facts["extra"]["made_by"] = near
    return facts


def _masked_rows(record: OpRecord, arrays: dict[int, Any]) -> int:
    if not (record.name in ("sub", "exp") or "softmax" in record.name or "logsumexp" in record.name):
        return 0
    first = arrays.get(0)
    if first is None or not is_floating(first) or first.ndim == 0:
        return 0
    return int((first == -float("inf")).all(axis=-1).sum())


def _reduces_nothing(graph: Graph, node: Node, arrays: dict[int, Any]) -> bool:
    first = arrays.get(0)
    if first is not None and first.size == 0:
        return True
    if node.name in ("std", "var") and first is not None and first.size == 1 and node.phase == "forward":
        return True
    if node.name not in ("div", "mean", "std", "var"):
        return False
    # A mean over nothing is 0 / 0, with a sum of nothing above.
    for ancestor in graph.ancestors(node.inputs, 3):
        sizes = [_size(graph, value) for value in ancestor.inputs]
        if ancestor.name in ("sum", "mean") and sizes and sizes[0] == 0:
            return True
    return False


def _size(graph: Graph, value: int) -> int | None:
    known = graph.values.get(value)
    if known is not None and known.array is not None:
        return int(known.array.size)
    return graph.n_elements.get(value)


def _through_where(graph: Graph, node: Node, found: Slice) -> bool:
    """Whether a `where` of the forward pass drops what the origin's operation made."""
    forward = node.index if node.phase == "forward" else node.forward
    if forward is None:
        return False
    is_met_in_backward = node.phase == "backward" or any(step.phase == "backward" for step in found.path)
    if not is_met_in_backward:
        return False
    for later in graph.descendants(forward):
        if later.phase != "forward" or later.name != "where":
            continue
        drops = any(value in graph.bad for value in later.inputs) and later.index not in graph.kept
        if drops or (node.phase == "backward" and _has_zero_gradient(graph, found)):
            return True
    return False


def _has_zero_gradient(graph: Graph, found: Slice) -> bool:
    """Whether, on the way to the symptom, a NaN was made by a gradient that a `where` had set to 0."""
    for record in found.path:
        if record.kind != "nan" or record.name not in ("mul", "div"):
            continue
        inputs = graph.nodes[record.index].inputs
        for place, array in graph.kept.get(record.index, {}).items():
            if array is not None and all_finite(array) and bool((array == 0).any()):
                above = graph.ancestors(inputs[place : place + 1], _NEAR)
                if any(node.name == "where" and node.phase == "backward" for node in above):
                    return True
    return False


def _zero_variance(graph: Graph, node: Node, reduces_nothing: bool) -> bool:
    if node.module_type is not None and "normalization" in node.module_type.lower() and node.name in _NORMALISES:
        return True
    if node.name not in _NORMALISES or reduces_nothing:
        return False
    if node.name in ("std", "var"):
        return True
    near = graph.ancestors(node.inputs if node.forward is None else graph.nodes[node.forward].inputs, _NEAR)
    return any(other.name in _SPREADS or other.called in _SPREADS for other in near)


def _takes_logits(record: OpRecord, near: list[str]) -> bool:
    """Whether a logarithm (of a loss) got what a layer put out, with no squashing function between."""
    if record.name not in ("log", "log2", "log10", "log1p", "xlogy") or record.phase != "forward":
        return False
    for name in near:
        if name in _SQUASHES or name == "div":
            return False
        if name in _LAYERS:
            return True
    return False
