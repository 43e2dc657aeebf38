"""Facts about arrays of any framework that NumPy can look at; no framework is imported, NumPy only when first asked."""

import math
import sys
from typing import Any

from whynan.records.op import Role, TensorSummary
from whynan.trace import Kind

_MAX_DISTINCT = 4096


def to_numpy(value: Any) -> Any:
    """Return `value` as a NumPy array without a copy where that can be had; None for what is no array of numbers."""
    np = sys.modules["numpy"]
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return np.asarray(value)
    internal = getattr(value, "_numpy", None)
    try:
        array = internal() if callable(internal) else np.asarray(value)
        array = np.asarray(array)
    except Exception:
        return None
    return array if array.dtype.kind in "biufcV" and array.dtype.names is None else None


def is_array(value: Any) -> bool:
    """Whether a value is an array of some framework with at least one dimension."""
    shape = None if isinstance(value, type) or callable(value) else getattr(value, "shape", None)
    try:
        return shape is not None and hasattr(value, "dtype") and len(shape) > 0
    except (TypeError, ValueError):
        return False


def is_floating(array: Any) -> bool:
    """Whether an array holds floating-point numbers, bfloat16 and its like included."""
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and "float" in array.dtype.name)


def all_finite(array: Any) -> bool:
    """Whether every element is finite; arrays of integers are."""
    np = sys.modules["numpy"]
    if not is_floating(array) or array.size == 0:
        return True
    if array.dtype.kind == "f" and array.dtype.itemsize >= 4:
        flat = array.reshape(-1) if array.flags.c_contiguous else None
        # One product tells of finite arrays, fast; a large one may overflow, then the elements are looked at.
        with np.errstate(all="ignore"):
            if flat is not None and math.isfinite(float(np.dot(flat, flat))):
                return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array).all())


def kind_of(array: Any) -> Kind | None:
    """Return "nan", "inf" or "-inf", the worst that the array holds; None where it is finite."""
    np = sys.modules["numpy"]
    if array is None or not is_floating(array) or all_finite(array):
        return None
    wide = array if array.dtype.kind in "fc" else array.astype(np.float32)
    if np.isnan(wide).any():
        return "nan"
    return "inf" if (wide == math.inf).any() or wide.dtype.kind == "c" else "-inf"


def kind_of_number(value: float) -> Kind:
    """Return what a number that is not finite is."""
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def kind_at(array: Any, element: tuple[int, ...]) -> Kind | None:
    """Return what stands at one element, None for a finite number."""
    value = complex(array[element])
    if math.isnan(value.real) or math.isnan(value.imag):
        return "nan"
    if math.isinf(value.real):
        return "inf" if value.real > 0 else "-inf"
    return "inf" if math.isinf(value.imag) else None


def nonfinite_elements(array: Any, limit: int = 8) -> tuple[tuple[int, ...], ...]:
    """Return the indices of some non-finite elements: of NaN and of infinities, first ones first."""
    np = sys.modules["numpy"]
    wide = array if array.dtype.kind in "fc" else array.astype(np.float32)
    if wide.ndim == 0:
        return () if np.isfinite(wide) else ((),)
    found: list[tuple[int, ...]] = []
    for bad in (np.isnan(wide), np.isinf(wide)):
        flat = np.flatnonzero(bad)[:limit]
        found += [tuple(int(i) for i in np.unravel_index(place, wide.shape)) for place in flat]
    return tuple(found)


def summarize(array: Any, role: Role = "computed", name: str | None = None) -> TensorSummary:
    """Return the facts about an array that a report holds."""
    np = sys.modules["numpy"]
    shape, dtype = tuple(int(n) for n in array.shape), str(array.dtype.name)
    if array.size == 0 or array.dtype.kind not in "biufcV":
        return TensorSummary(shape, dtype, role=role, name=name)
    wide = array
    if array.dtype.kind == "V" or dtype in ("float16", "bfloat16"):
        wide = array.astype(np.float32)
    if wide.dtype.kind == "c":
        wide = np.abs(wide)
    finite = np.isfinite(wide) if wide.dtype.kind == "f" else np.ones(wide.shape, bool)
    good = wide[finite] if wide.ndim else (wide.reshape(1) if bool(finite) else wide.reshape(1)[:0])
    nonzero = np.abs(good[good != 0].astype(np.float64))
    return TensorSummary(
        shape=shape,
        dtype=dtype,
        min=float(good.min()) if good.size else None,
        max=float(good.max()) if good.size else None,
        abs_min_nonzero=float(nonzero.min()) if nonzero.size else None,
        n_zero=int((good == 0).sum()),
        n_negative=int((good < 0).sum()),
        n_nan=int(np.isnan(wide).sum()) if wide.dtype.kind == "f" else 0,
        n_posinf=int((wide == math.inf).sum()) if wide.dtype.kind == "f" else 0,
        n_neginf=int((wide == -math.inf).sum()) if wide.dtype.kind == "f" else 0,
        role=role,
        name=name,
        n_distinct=int(np.unique(good).size) if 0 < good.size <= _MAX_DISTINCT else None,
    )


def broadcast_element(element: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the index into an input of `shape` that broadcasting leads to an output's `element`; None if none does."""
    if len(shape) > len(element):
        return None
    result = []
    for index, size in zip(element[len(element) - len(shape) :], shape, strict=True):
        if size == 1:
            result.append(0)
        elif index < size:
            result.append(index)
        else:
            return None
    return tuple(result)


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
        from whynan.adapters.torch.opfacts import is_finite

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
