"""Facts about single aten ops: plain names, what they write, which values are literals, what a loss was given."""

import math
import re
from typing import Any

import torch

from whynan.trace import OpRecord

LOSS_OPS = {
    "binary_cross_entropy": "binary_cross_entropy",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
    "nll_loss_forward": "nll_loss",
    "nll_loss2d_forward": "nll_loss",
    "_ctc_loss": "ctc_loss",
    "mse_loss": "mse_loss",
    "smooth_l1_loss": "smooth_l1_loss",
    "huber_loss": "huber_loss",
    "xlogy": "kl_div",
    "multi_margin_loss": "multi_margin_loss",
    "multilabel_margin_loss_forward": "multilabel_margin_loss",
}
LITERAL_OPS = {"full", "full_like", "new_full", "scalar_tensor", "lift_fresh", "lift_fresh_copy", "fill", "fill_"}
FILLING_OPS = {
    "masked_fill": 2,
    "masked_fill_": 2,
    "constant_pad_nd": 2,
    "index_fill": 3,
    "index_fill_": 3,
    "scatter": 3,
    "scatter_": 3,
}
_NORM_STATS = {
    "native_batch_norm": (3, 4),
    "cudnn_batch_norm": (3, 4),
    "miopen_batch_norm": (3, 4),
    "_native_batch_norm_legit": (3, 4),
    "_batch_norm_with_update": (3, 4),
}


def written_arguments(func: Any, name: str, args: Any, kwargs: Any) -> list[Any]:
    """Return the tensors that the op writes in place; running statistics too, which some schemas do not tell."""
    found: list[Any] = []
    arguments = func._schema.arguments
    if func._schema.is_mutable:
        for position, argument in enumerate(arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[position] if position < len(args) else kwargs.get(argument.name)
                found += value if isinstance(value, (list, tuple)) else [value]
    for position in _NORM_STATS.get(name, ()):
        if position < len(args):
            found.append(args[position])
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]


def args_by_name(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments that are plain values (numbers, strings, lists of numbers), by their schema's names."""
    result: dict[str, Any] = {}
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.dim() == 0 and argument.name != "self":
            value = value.item()
        if isinstance(value, (bool, int, float, str)):
            result[argument.name] = value
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, (int, float)) for item in value):
            result[argument.name] = list(value[:8])
    return result


def is_literal(name: str, args: Any, kwargs: Any) -> bool:
    """Whether the op wrote a number that the program names, such as a mask's -inf."""
    if name in LITERAL_OPS:
        return True
    if name in FILLING_OPS and len(args) > FILLING_OPS[name]:
        value = args[FILLING_OPS[name]]
        if isinstance(value, torch.Tensor):
            value = value.item() if value.numel() == 1 else 0.0
        return not math.isfinite(value)
    if name == "constant_pad_nd":
        return not math.isfinite(kwargs.get("value", 0.0))
    if name in ("where", "index_put", "index_put_", "copy_"):
        return False  # their literal is an input, made by one of LITERAL_OPS
    return False


def gathered_rows(name: str, args: Any) -> tuple[int, ...] | None:
    """Return which rows of its source the op took, None where it is not a gather of rows of a large tensor."""
    source = args[0]
    if not isinstance(source, torch.Tensor) or source.dim() == 0:
        return None
    n = source.shape[0]
    if name == "index" and args[1] and args[1][0] is not None and all(other is None for other in args[1][1:]):
        picked = args[1][0]
        if picked.dtype == torch.bool:
            return tuple(picked.nonzero()[:, 0].tolist()) if picked.dim() == 1 and n <= 1_000_000 else None
        return tuple(picked.tolist()) if picked.dim() == 1 and picked.numel() <= 100_000 else None
    if name == "index_select" and args[1] == 0:
        return tuple(args[2].tolist())
    if name == "slice" and (len(args) < 2 or args[1] == 0):
        start = args[2] if len(args) > 2 and args[2] is not None else 0
        stop = args[3] if len(args) > 3 and args[3] is not None else n
        step = args[4] if len(args) > 4 else 1
        rows = range(*slice(start, stop, step).indices(n))
        return tuple(rows) if 0 < len(rows) < n and len(rows) <= 100_000 else None
    return None


def birth_facts(name: str, args: Any, kwargs: Any, values: list[Any], out: Any, elements: list[Any]) -> dict[str, Any]:
    """Measure what only the op's own inputs can tell, at the moment at which its output turns non-finite."""
    facts: dict[str, Any] = {}
    floats = [v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]
    if name in ("_softmax", "_log_softmax", "logsumexp", "_safe_softmax", "softmax", "log_softmax") and floats:
        dim = args[1][0] if isinstance(args[1], (list, tuple)) else args[1]
        facts["masked_rows"] = int((floats[0] == -math.inf).all(dim=dim).sum())
    if floats and name in ("mean", "std", "var", "var_mean", "std_mean", "sum", "median"):
        facts["n_reduced"] = floats[0].numel() // max(out.numel(), 1)
        facts["reduces_nothing"] = floats[0].numel() == 0 or (
            name in ("std", "var", "var_mean", "std_mean") and facts["n_reduced"] < 2
        )
    if name.startswith(("nll_loss", "nll_loss2d")) and len(values) > 1:
        ignore = args[4] if len(args) > 4 else -100
        target = values[1]
        facts["all_ignored"] = bool((target == ignore).all()) if isinstance(target, torch.Tensor) else False
        facts["reduces_nothing"] = facts["all_ignored"]
    if name == "_ctc_loss" and len(args) > 3:
        facts["input_lengths"], facts["target_lengths"] = _lengths(args[2]), _lengths(args[3])
    facts["inputs_at_element"] = _at_element(values, out, elements)
    return facts


def _lengths(value: Any) -> list[int]:
    return [int(v) for v in (value.tolist() if isinstance(value, torch.Tensor) else value)][:4096]


def _at_element(values: list[Any], out: Any, elements: list[Any]) -> list[float]:
    """Return what stood in each input at the first non-finite element, for inputs that broadcast to the output."""
    if not elements:
        return []
    found = []
    for value in values[:4]:
        if not isinstance(value, torch.Tensor) or value.is_complex():
            continue
        element = broadcast_element(elements[0], value.shape)
        if element is not None:
            found.append(
                float(value.detach()[element].to(torch.float64)) if element else float(value.detach().reshape(-1)[0])
            )
    return found


def broadcast_element(element: tuple[int, ...], shape: Any) -> tuple[int, ...] | None:
    """Return the index into an input of `shape` that broadcasting leads to an output's `element`; None if none does."""
    if len(shape) > len(element):
        return None
    result = []
    for index, size in zip(element[len(element) - len(shape) :], shape):
        if size == 1:
            result.append(0)
        elif index < size:
            result.append(index)
        else:
            return None
    return tuple(result)


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PLAIN = {
    "nll_loss_forward": "nll_loss",
    "nll_loss2d_forward": "nll_loss",
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "linalg_vector_norm": "linalg_vector_norm",
    "rsub": "sub",
}


def plain_name(record: OpRecord) -> str:
    """Return the name a reader knows: of the forward operation, for a derivative of the framework's own."""
    if record.node is not None and record.custom is None and "Backward" in record.node:
        return _plain(forward_name(record.node))
    return _plain(record.name)


def forward_name(node: str) -> str:
    """Return the operation that a node is the derivative of: native_batch_norm for "NativeBatchNormBackward0"."""
    stem = re.sub(r"Backward\d*$", "", node.rpartition("::")[2])
    return _CAMEL.sub("_", stem).lower()


def _plain(name: str) -> str:
    name = name.removeprefix("_foreach").strip("_") if not name.startswith("__") else name
    return _PLAIN.get(name, name)
