"""MindSpore's tensors as NumPy arrays."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np

from whynan.adapters.common.arrays import map_structure as map_leaves
from whynan.adapters.common.positions import plain_name

_NO_NUMPY = {ms.bfloat16}
_PLAIN = {
    "muls": "mul", "divs": "div", "adds": "add", "subs": "sub", "pow_tensor_scalar": "pow", "pow_scalar_tensor": "pow",
    "reduce_std": "std", "a_cos": "acos", "a_sin": "asin", "atan2": "atan2", "matmul_ext": "matmul", "dense": "matmul",
    "bce_with_logits_loss": "binary_cross_entropy_with_logits", "conv2d_ext": "conv2d", "conv2_d": "conv2d",
    "re_lu": "relu", "sum_ext": "sum", "mean_ext": "mean", "max_dim": "max", "min_dim": "min", "prod_ext": "prod",
    "select": "where", "square_sum_all": "sum", "arg_max_with_value": "max", "arg_min_with_value": "min",
    "linalg_vector_norm": "norm", "lp_norm": "norm", "div_mod": "div", "clamp_tensor": "clip", "clamp_scalar": "clip",
    "acosh_ext": "acosh", "acos_ext": "acos", "asin_ext": "asin", "var_mean": "var", "reciprocal_ext": "reciprocal",
}  # fmt: skip


def is_tensor(value: Any) -> bool:
    return isinstance(value, ms.Tensor)


def is_floating(tensor: Any) -> bool:
    return bool(tensor.dtype in (ms.float16, ms.float32, ms.float64, ms.bfloat16))


def array_of(tensor: Any) -> Any:
    """Return a tensor's numbers as an array, which may share its memory; bfloat16 as float32."""
    if tensor.dtype in _NO_NUMPY:
        tensor = tensor.astype(ms.float32)
    array = tensor.asnumpy()
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def tensor_like(array: Any, tensor: Any) -> Any:
    # A copy: a tensor may share the array's memory, and kernels write into parameters.
    made = ms.Tensor(np.array(array, order="C", copy=True) if np.ndim(array) else array)
    return made if made.dtype == tensor.dtype else made.astype(tensor.dtype)


def write(parameter: Any, array: Any) -> None:
    """Put numbers into a parameter's own memory: a compiled step holds on to that."""
    ms.ops.assign(parameter, tensor_like(array, parameter))


def tensors_in(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the tensors in a nested value, in order."""
    if isinstance(value, ms.Tensor):
        yield value
    elif depth < 4 and isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item, depth + 1)
    elif depth < 4 and isinstance(value, dict):
        yield from tensors_in(list(value.values()), depth + 1)


def map_structure(value: Any, change: Any) -> Any:
    """Return a nested value with each tensor and array replaced by what `change` makes of it."""
    return map_leaves(value, lambda leaf: change(leaf) if isinstance(leaf, (ms.Tensor, np.ndarray)) else leaf)


def op_name(name: str) -> str:
    """Return the plain name of a primitive: SubExt, Sub, Subs and InplaceSub are all sub."""
    short = name.removeprefix("Inplace")
    snake = plain_name(short)
    if snake in _PLAIN:
        return _PLAIN[snake]
    for ending in ("Ext", "View", "V2", "V3"):
        short = short.removesuffix(ending)
    plain = plain_name(short)
    return _PLAIN.get(plain, plain)
