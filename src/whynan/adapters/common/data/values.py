"""Whether a value of the user's program holds a NaN or an infinity."""

import math
import sys
from typing import Any

from whynan.adapters.common.arrays import all_finite, to_numpy

_WIDTH = 256
"""Elements of a container that are looked at."""
_DEPTH = 4
_SCALARS = (str, bytes, bool, int, type(None))
FRAMEWORKS = ("tensorflow", "jax", "jaxlib", "mindspore", "keras")
"""Packages whose arrays NumPy can look at."""


def is_bad(value: Any, depth: int = _DEPTH) -> bool:
    """Tell whether a number, array, tensor, image or small container holds something non-finite. Runs no code of
    the user's; False where it cannot be told."""
    try:
        return _is_bad(value, depth)
    except Exception:
        return False


def _is_bad(value: Any, depth: int) -> bool:
    if isinstance(value, _SCALARS):
        return False
    if isinstance(value, float):
        return not math.isfinite(value)
    if is_torch_tensor(value):
        from whynan.adapters.torch.data.summary import is_finite

        return not is_finite(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _array_is_bad(numpy, value, depth)
    if depth == 0:
        return False
    if isinstance(value, dict):
        return any(_is_bad(part, depth - 1) for part in list(value.values())[:_WIDTH])
    if isinstance(value, (list, tuple)):
        return any(_is_bad(part, depth - 1) for part in value[:_WIDTH])
    family = type(value).__module__.split(".")[0]
    if family == "PIL" and getattr(value, "mode", None) == "F" and numpy is not None:
        return _array_is_bad(numpy, numpy.asarray(value), depth)
    if family in FRAMEWORKS and hasattr(value, "dtype"):
        array = to_numpy(value)
        return array is not None and not all_finite(array)
    if family == "pandas" and hasattr(value, "to_numpy"):
        return _is_bad(value.to_numpy(), depth - 1)
    if hasattr(type(value), "__dataclass_fields__"):
        return any(_is_bad(part, depth - 1) for part in vars(value).values())
    return False


def _array_is_bad(numpy: Any, array: Any, depth: int) -> bool:
    kind = array.dtype.kind
    if kind in "fc":
        return not bool(numpy.isfinite(array).all())
    if kind == "O" and depth:
        return any(_is_bad(part, depth - 1) for part in numpy.ravel(array)[:_WIDTH])
    return False


def is_torch_tensor(value: Any) -> bool:
    """Whether a value is a tensor of PyTorch's; it is not imported by this."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))
