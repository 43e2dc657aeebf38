"""The rows of a `mindspore.dataset` pipeline in the order of its source, as they are when they are batched.

The pipeline is copied, its shuffles are taken out, its sampler counts up, and what comes before the batching runs
again. A row's number is then the index of its sample in the source. Random augmentations make other rows than those of
the run: then nothing is found, and nothing is said.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from whynan.adapters.common.data.reread import Call, Reader

_MAX_ROWS = 20_000
_SECONDS = 6.0


def rows_in_order(dataset: Any, seconds: float = _SECONDS) -> tuple[Any, ...] | None:
    """Return the columns of a pipeline, a row for each sample of its source; None where they can't be had."""
    import copy

    import mindspore.dataset as ds
    from mindspore.dataset.engine import datasets

    tree = copy.deepcopy(dataset)
    node = tree
    while isinstance(node, (datasets.BatchDataset, datasets.RepeatDataset, datasets.ShuffleDataset)):
        node = node.children[0]
    current = node
    while current.children:
        child = current.children[0]
        if isinstance(current, (datasets.ConcatDataset, datasets.ZipDataset, datasets.FilterDataset)):
            return None
        if isinstance(child, (datasets.ShuffleDataset, datasets.RepeatDataset)):
            current.children[0] = child.children[0]
            continue
        current = child
    sampler = getattr(current, "sampler", None)
    if sampler is not None:
        current.sampler = ds.SequentialSampler()
    current.shuffle_flag = 0 if hasattr(current, "shuffle_flag") else None
    node.parent = []
    columns: list[list[Any]] = []
    until = time.monotonic() + seconds
    for n, row in enumerate(node.create_tuple_iterator(num_epochs=1, output_numpy=True)):
        if n >= _MAX_ROWS or time.monotonic() > until:
            return None
        columns = columns or [[] for _ in row]
        for column, value in zip(columns, row):
            column.append(np.asarray(value))
    stacked = [np.stack(column) if len({v.shape for v in column}) == 1 else None for column in columns]
    return tuple(column for column in stacked if column is not None) or None


def reader_of(dataset: Any) -> Reader | None:
    """Return a reader of the samples of a pipeline's source in Python, and of the functions mapped over them."""
    from mindspore.dataset.engine import datasets

    maps, node = [], dataset
    while node.children:
        if isinstance(node, (datasets.ConcatDataset, datasets.ZipDataset, datasets.FilterDataset)):
            return None
        if isinstance(node, datasets.MapDataset):
            maps.append((node.operations, node.input_columns, node.output_columns))
        node = node.children[0]
    source, names = getattr(node, "source", None), getattr(node, "column_names", None)
    if source is None or not names:
        return None

    def mapped(row: Any) -> Any:
        columns = dict(zip(names, row if isinstance(row, tuple) else (row,)))
        for operations, before, after in reversed(maps):
            values = [np.asarray(columns[name]) for name in before or list(columns)[:1]]
            for operation in operations:
                made = operation(*values)
                values = list(made) if isinstance(made, tuple) else [made]
            columns.update(zip(after or before or list(columns)[:1], values))
        return tuple(columns.values())

    def calls() -> Iterator[Call]:
        if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            yield from ((lambda i=i: mapped(source[i])) for i in range(len(source)))
            return
        rows = iter(source() if callable(source) else source)
        while True:
            yield lambda: mapped(next(rows))

    return Reader(calls, (source,), gives_samples=True)
