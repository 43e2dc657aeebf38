"""Samples that a run goes on without: known by what they hold, another row of the batch stands in their places."""

import sys
from collections.abc import Sequence
from typing import Any

from whynan.adapters.common.batch import Part, batch_size, parts_of, rows_equal
from whynan.adapters.common.experiments import others
from whynan.adapters.common.loops import Pass
from whynan.records import Sample
from whynan.snapshot import NamesSnapshot, target_names


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
