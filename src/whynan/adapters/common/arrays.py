"""Facts about arrays of any framework that NumPy can look at; no framework is imported, NumPy only when first asked.

A step's batch is such arrays by name: which are targets, what is wrong in them, which samples a run leaves out.
"""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from whynan.adapters.common.loops import Pass
from whynan.records import BatchFacts, Role, Sample, TensorSummary
from whynan.snapshot import NamesSnapshot, target_names
from whynan.trace import Kind

_MAX_DISTINCT = 4096
_TARGET = re.compile(
    r"^(y|ys|yb|y_?batch|y_?true|t|targets?|labels?|lab|truth|gt|tgt|answers?|classes|outputs?|energy|rewards?|"
    r"y_.*|.*_y|.*labels?|.*targets?|moves|prices?|sales|counts?)$",
    re.IGNORECASE,
)
_MAX_ROWS = 200_000
_MAX_DEPTH = 4


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


@dataclass(frozen=True)
class Part:
    """One array of the batch under the name that the script has for it."""

    name: str
    role: Role
    array: Any


def parts_of(items: Sequence[tuple[str, Any]]) -> tuple[Part, ...]:
    """Return the arrays in named values, nested ones under a name of their own."""
    found: list[Part] = []
    for name, value in items:
        for label, array in _walk(name, value, 0):
            role: Role = "target" if is_target(label) else "batch"
            found.append(Part(label, role, array))
    return tuple(found)


def is_target(name: str) -> bool:
    return bool(_TARGET.match(name.split("[")[0].split(".")[-1]))


def _walk(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if value is None or depth > _MAX_DEPTH or isinstance(value, (str, bytes, bool, int, float)):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(str(key), item, depth + 1)
    elif isinstance(value, (list, tuple)):
        fields = getattr(value, "_fields", None)
        for i, item in enumerate(value):
            yield from _walk(fields[i] if fields else f"{name}[{i}]", item, depth + 1)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        array = to_numpy(value)
        if array is not None:
            yield name, array


def batch_size(parts: Sequence[Part]) -> int | None:
    """Return the number of samples: the first dimension that the arrays share; None where they share none."""
    sizes = [int(part.array.shape[0]) for part in parts if part.array.ndim]
    if not sizes:
        return None
    size = max(set(sizes), key=sizes.count)
    return size if size > 0 else None


def describe(parts: Sequence[Part]) -> BatchFacts:
    size = batch_size(parts)
    constant: list[int] = []
    for part in parts:
        if part.role == "batch" and size and part.array.ndim >= 2 and len(part.array) == size:
            constant += _constant_rows(part.array)
    return BatchFacts(
        size=size,
        tensors=tuple(summarize(part.array, part.role, part.name) for part in parts),
        constant_samples=tuple(sorted(set(constant))[:64]),
    )


def _constant_rows(array: Any) -> list[int]:
    np = sys.modules["numpy"]
    flat = array.reshape(len(array), -1)
    if flat.shape[1] < 4 or (not is_floating(flat) and flat.dtype.kind not in "iu"):
        return []
    with np.errstate(all="ignore"):
        same = (flat == flat[:, :1]).all(axis=1)
    return [int(i) for i in np.flatnonzero(same)[:64]]


def find_index(parts: Sequence[Part], position: int, sources: Sequence[Any]) -> int | None:
    """Return the index of a row of the batch in the data set that the script holds, by its content.

    `sources` are arrays, or groups of arrays, with a row for each sample. A row must be found once only, all parts of
    the sample together where the source has them together.
    """
    np = sys.modules["numpy"]
    size = batch_size(parts)
    rows = [np.asarray(part.array[position]) for part in parts if part.array.ndim and len(part.array) == size]
    # The part that tells most comes first.
    rows.sort(key=lambda row: -row.size)
    best: tuple[int, int] | None = None
    for source in sources:
        columns = [column for column in (source if isinstance(source, tuple) else (source,)) if column is not None]
        hits: Any = None
        n_used = 0
        for row in rows:
            for column in columns:
                equal = rows_equal(column, row)
                if equal is None or not equal.any():
                    continue
                hits = equal if hits is None or len(hits) != len(equal) else hits & equal
                n_used += 1
                break
        if hits is None:
            continue
        places = np.flatnonzero(hits)
        if len(places) == 1 and (best is None or n_used > best[0]):
            best = (n_used, int(places[0]))
    return best[1] if best is not None else None


def rows_equal(column: Any, row: Any) -> Any:
    """Return which rows of an array are the same as one; None where they can't be."""
    np = sys.modules["numpy"]
    array = column if isinstance(column, np.ndarray) else to_numpy(column)
    if array is None or array.ndim != row.ndim + 1 or len(array) > _MAX_ROWS or array.dtype.kind not in "biuf":
        return None
    if array.shape[1:] != row.shape or row.dtype.kind not in "biuf":
        return None
    with np.errstate(all="ignore"):
        wide = array.astype(row.dtype) if array.dtype != row.dtype else array
        equal = (wide == row) | ((wide != wide) & (row != row))
    return equal.reshape(len(array), -1).all(axis=1)


def others(size: int | None, rows: list[int]) -> list[int] | None:
    """Return the positions of a batch with `rows` replaced by the first other one; None where there is none."""
    good = next((i for i in range(size or 0) if i not in rows), None)
    return [good if i in rows else i for i in range(size or 0)] if good is not None else None


class LeftOut:
    """The samples, each as its arrays by the names that the batch's parts have."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []

    def add(self, parts: Sequence[Part], samples: Sequence[Sample]) -> None:
        """Leave out what stands in the places of these samples."""
        size = batch_size(parts)
        for sample in samples:
            at = sample.position
            if at is not None:
                held = {
                    part.name: part.array[at].copy() for part in parts if part.array.ndim and len(part.array) == size
                }
                self.samples.append(held)

    def rows(self, parts: Sequence[Part]) -> list[int] | None:
        """Return the row to take for each place of a batch; None where it holds none of the samples."""
        bad: set[int] = set()
        arrays = {part.name: part.array for part in parts}
        size = batch_size(parts)
        for sample in self.samples:
            equal = [rows_equal(arrays[name], row) for name, row in sample.items() if name in arrays]
            if len(equal) == len(sample) and all(hits is not None and len(hits) == size for hits in equal):
                bad |= {i for i in range(size or 0) if all(hits[i] for hits in equal)}
        return others(size, sorted(bad)) if bad else None

    def replace_in_header(self, current: Pass) -> None:
        """Give the names that a loop's header has bound a batch without the samples."""
        values, names = current.before.values, target_names(current.owner.site)
        rows = self.rows(header_parts(current)) if self.samples else None
        if rows is not None:
            new = {name: map_structure(values[name], partial(_taken, rows=rows)) for name in names if name in values}
            values.update(new)
            NamesSnapshot.bind(current.frame, new)


def header_parts(current: Pass) -> tuple[Part, ...]:
    """Return the arrays that the header of a loop has bound in an iteration."""
    values = current.before.values
    return parts_of([(name, values[name]) for name in target_names(current.owner.site) if name in values])


def map_structure(value: Any, change: Any) -> Any:
    """Return a nested value with each leaf replaced by what `change` makes of it."""
    if isinstance(value, dict):
        return {key: map_structure(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        made = [map_structure(item, change) for item in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return change(value)


def _taken(value: Any, rows: list[int]) -> Any:
    shape: Any = getattr(value, "shape", ())
    if len(shape) == 0 or shape[0] != len(rows):
        return value
    if hasattr(value, "numpy"):
        import tensorflow as tf  # a tensor of TensorFlow's: it is imported already

        return tf.gather(value, rows)
    return value[sys.modules["numpy"].asarray(rows)]
