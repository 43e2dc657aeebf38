"""What a step was given: arrays by name, which are targets, what is wrong in them; samples that a run leaves out."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from whynan.adapters.common.arrays import is_floating, summarize, to_numpy
from whynan.adapters.common.loops import Pass
from whynan.records import BatchFacts, Sample
from whynan.records.op import Role
from whynan.snapshot import NamesSnapshot, target_names

_TARGET = re.compile(
    r"^(y|ys|yb|y_?batch|y_?true|t|targets?|labels?|lab|truth|gt|tgt|answers?|classes|outputs?|energy|rewards?|"
    r"y_.*|.*_y|.*labels?|.*targets?|moves|prices?|sales|counts?)$",
    re.IGNORECASE,
)
_MAX_ROWS = 200_000
_MAX_DEPTH = 4


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
    """Whether a variable is called like a target."""
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
    """Return the batch's facts."""
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
            new = {name: _taken(values[name], rows) for name in names if name in values}
            values.update(new)
            NamesSnapshot.bind(current.frame, new)


def header_parts(current: Pass) -> tuple[Part, ...]:
    """Return the arrays that the header of a loop has bound in an iteration."""
    values = current.before.values
    return parts_of([(name, values[name]) for name in target_names(current.owner.site) if name in values])


def _taken(value: Any, rows: list[int]) -> Any:
    if isinstance(value, dict):
        return {key: _taken(item, rows) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        made = [_taken(item, rows) for item in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    shape: Any = getattr(value, "shape", ())
    if len(shape) == 0 or shape[0] != len(rows):
        return value
    if hasattr(value, "numpy"):
        import tensorflow as tf  # a tensor of TensorFlow's: it is imported already

        return tf.gather(value, rows)
    return value[sys.modules["numpy"].asarray(rows)]
