"""Facts about aten ops (plain names, what they write, which values are literals, what a loss was given) and tensors.

Tensors are measured without leaving a mark: no autograd node, no op in anybody's dispatch mode.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whynan.adapters.common.arrays import broadcast_element
from whynan.records import Role, TensorSummary
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
DISTINCT_LIMIT = 1 << 14
"""Distinct values need a sort; tensors with more elements than this get no count unless they are constant."""
_INT_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Run tensor code that neither the user's nor our own modes, subclasses and autograd get to see."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def summarize(tensor: Any, role: Role = "computed", name: str | None = None) -> TensorSummary:
    """Return the summary of a tensor of any dtype, layout and device, an array, or a number.

    A tensor without readable values (meta, fake, a wrapper that refuses) gets its shape and dtype only, with
    `extra["unread"]` saying why.
    """
    with torch._C.DisableTorchFunction():  # reading a shape is a torch function too
        shape, dtype = _form(tensor)
    try:
        with unseen():
            return _measure(_without_subclass(tensor), shape, dtype, role, name)
    except Exception as error:
        return TensorSummary(shape, dtype, role=role, name=name, extra={"unread": f"{type(error).__name__}: {error}"})


def is_finite(value: Any) -> bool:
    """Tell whether a tensor, an array or a number holds finite values only; True for what holds no numbers."""
    try:
        with unseen():
            plain = _without_subclass(value)
            if not (plain.is_floating_point() or plain.is_complex()):
                return True
            return bool(torch.isfinite(_workable(plain)).all())
    except Exception:
        return True


def dtype_name(dtype: Any) -> str:
    """Return a dtype's name without its framework: torch.float32 and numpy's float32 are both "float32"."""
    return str(dtype).removeprefix("torch.")


def _form(value: Any) -> tuple[tuple[int, ...], str]:
    if isinstance(value, (bool, int, float, complex)):
        return (), {bool: "bool", int: "int64", float: "float64", complex: "complex128"}.get(type(value), "float64")
    try:
        return tuple(int(size) for size in value.shape), dtype_name(value.dtype)
    except Exception:  # a nested tensor has no one shape
        return (), dtype_name(getattr(value, "dtype", type(value).__name__))


def _without_subclass(value: Any) -> Any:
    """Return a dense, real-memory tensor with the same values."""
    if not isinstance(value, torch.Tensor):
        return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    tensor = value.detach()
    if hasattr(tensor, "to_local"):  # DTensor: this rank's shard
        tensor = tensor.to_local()
    if type(tensor) is not torch.Tensor and not hasattr(type(tensor), "__tensor_flatten__"):
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.is_nested:
        tensor = (
            tensor.values() if tensor.layout is torch.jagged else torch.cat([t.reshape(-1) for t in tensor.unbind()])
        )
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.layout is not torch.strided:
        return tensor.values() if tensor.layout is not torch._mkldnn else tensor.to_dense()
    return tensor.resolve_conj().resolve_neg()


def _workable(tensor: Any) -> Any:
    """Return the values in a dtype that has every operation used here."""
    if tensor.is_complex() or tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    if tensor.dtype in _INT_DTYPES:
        return tensor.to(torch.int64)
    return tensor.to(torch.float64)


def _measure(tensor: Any, shape: tuple[int, ...], dtype: str, role: Role, name: str | None) -> TensorSummary:
    if tensor.device.type == "meta":
        return TensorSummary(shape, dtype, role=role, name=name, extra={"unread": "meta tensor"})
    extra: dict[str, Any] = {}
    if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) != shape:
        extra["n_stored"] = tensor.numel()
    n_stored = tensor.numel()
    if n_stored == 0:
        return TensorSummary(shape, dtype, n_zero=_implicit_zeros(shape, extra), role=role, name=name, extra=extra)
    values = _workable(tensor)
    smallest, largest, nearest, counts = _ranges(values)
    n_nan, n_posinf, n_neginf, n_finite, n_nonzero, n_negative = counts
    n_implicit = _implicit_zeros(shape, extra)
    if n_implicit:
        smallest, largest = min(smallest, 0), max(largest, 0)
        n_finite, n_stored = n_finite + n_implicit, n_stored + n_implicit
    return TensorSummary(
        shape=shape,
        dtype=dtype,
        min=float(smallest) if n_finite else None,
        max=float(largest) if n_finite else None,
        abs_min_nonzero=float(nearest) if n_nonzero else None,
        n_zero=n_finite - n_nonzero,
        n_negative=n_negative,
        n_nan=n_nan,
        n_posinf=n_posinf,
        n_neginf=n_neginf,
        role=role,
        name=name,
        n_distinct=1 if n_finite == n_stored and smallest == largest else _distinct(values),
        extra=extra,
    )


def _ranges(values: Any) -> tuple[Any, Any, Any, list[int]]:
    """Return smallest, largest, smallest non-zero magnitude, and the counts, over the finite elements."""
    magnitude = values.abs()
    real = magnitude if values.is_complex() else values
    # A dtype's own extremes as filler: they come out again only where there is no finite (or no non-zero) element.
    top, low = _extremes(real.dtype)
    smallest, largest = torch.stack(torch.aminmax(real)).tolist()
    if math.isfinite(smallest) and math.isfinite(largest):  # the usual case; aminmax lets a NaN through
        nonzero = magnitude != 0
        nearest = torch.where(nonzero, magnitude, top).amin().item()
        n_nonzero, n_negative = torch.stack([nonzero.sum(), (real < 0).sum()]).tolist()
        return smallest, largest, nearest, [0, 0, 0, values.numel(), n_nonzero, n_negative]
    finite = torch.isfinite(values)
    nonzero = finite & (magnitude != 0)
    numbers = [
        torch.where(finite, real, top).amin(),
        torch.where(finite, real, low).amax(),
        torch.where(nonzero, magnitude, top).amin(),
    ]
    counts = [*_nonfinite_counts(values), finite.sum(), nonzero.sum(), (real < 0).sum()]
    smallest, largest, nearest = torch.stack(numbers).tolist()
    return smallest, largest, nearest, [int(n) for n in torch.stack(counts).tolist()]


def _implicit_zeros(shape: tuple[int, ...], extra: dict[str, Any]) -> int:
    """Elements that a sparse tensor does not store."""
    if "n_stored" not in extra:
        return 0
    n = 1
    for size in shape:
        n *= size
    return max(0, n - int(extra["n_stored"]))


def _nonfinite_counts(values: Any) -> tuple[Any, Any, Any]:
    nan = torch.isnan(values)
    if values.is_complex():
        return nan.sum(), (torch.isinf(values) & ~nan).sum(), nan.sum() * 0
    if values.is_floating_point():
        return nan.sum(), (values == torch.inf).sum(), (values == -torch.inf).sum()
    none = nan.sum() * 0
    return none, none, none


def _extremes(dtype: Any) -> tuple[float | int, float | int]:
    if dtype.is_floating_point:
        return float("inf"), float("-inf")
    info = torch.iinfo(dtype)
    return int(info.max), int(info.min)


def _distinct(values: Any) -> int | None:
    """Return how many distinct finite values there are, None where counting them would cost too much."""
    if values.is_complex() or values.numel() > DISTINCT_LIMIT:
        return None
    return int(torch.unique(values[torch.isfinite(values)]).numel())
