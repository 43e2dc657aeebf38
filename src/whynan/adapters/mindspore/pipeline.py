"""The rows of a `mindspore.dataset` pipeline in the order of its source, as they are when they are batched.

The pipeline is copied, its shuffles are taken out, its sampler counts up, and what comes before the batching runs
again. A row's number is then the index of its sample in the source. Random augmentations make other rows than those of
the run: then nothing is found, and nothing is said.
"""

import time
from typing import Any

import numpy as np

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
