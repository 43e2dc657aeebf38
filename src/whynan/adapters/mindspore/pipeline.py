"""The rows of a `mindspore.dataset` pipeline in the order of its source, as they are when they are batched.

A copy of the pipeline runs again without what shuffles, repeats, filters or cuts it. A row's number is its index in the
source, of joined sources in one after the other. Random augmentations make other rows: then nothing is found.
"""

import copy
import random
import time
from collections.abc import Iterator
from typing import Any

import mindspore.dataset as ds
import numpy as np
from mindspore.dataset.engine import datasets

from whynan.adapters.common.data.reread import Call, Reader

_MAX_ROWS = 20_000
_SECONDS = 6.0
_CUTS = (datasets.FilterDataset, datasets.SkipDataset, datasets.TakeDataset)
_ORDERS = (datasets.RepeatDataset, datasets.ShuffleDataset)
_PLAIN = (datasets.MapDataset, datasets.ProjectDataset, datasets.RenameDataset)


class _UnknownError(Exception):
    """The order of the source can't be had."""


def rows_in_order(dataset: Any, seconds: float = _SECONDS) -> tuple[Any, ...] | None:
    """Return the columns of a pipeline, a row for each sample of its source; None where they can't be had."""
    node = copy.deepcopy(dataset)
    is_batched = False
    while isinstance(node, (datasets.BatchDataset, *_ORDERS, *_CUTS)):
        node = node.children[0]
    try:
        node, is_batched = _plain(node), _has(node, (datasets.BatchDataset,))
    except _UnknownError:
        return None
    node.parent = []
    columns: list[list[Any]] = []
    until = time.monotonic() + seconds
    drawn = random.getstate(), np.random.get_state()  # what maps draw is none of the run's
    try:
        for row in node.create_tuple_iterator(num_epochs=1, output_numpy=True):
            columns = columns or [[] for _ in row]
            for column, value in zip(columns, row):
                column.extend(value if is_batched else [np.asarray(value)])
            if len(columns[0]) > _MAX_ROWS or time.monotonic() > until:
                return None
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
    stacked = [np.stack(column) if len({np.shape(v) for v in column}) == 1 else None for column in columns]
    return tuple(column for column in stacked if column is not None) or None


def _plain(node: Any) -> Any:
    """Return a pipeline that gives every sample of its source once, in the source's order."""
    while isinstance(node, (*_ORDERS, *_CUTS)):
        node = node.children[0]
    if isinstance(node, datasets.ZipDataset) and any(_is_moved(child) for child in node.children):
        raise _UnknownError
    if isinstance(node, datasets.ConcatDataset):
        cuts = (datasets.RepeatDataset, datasets.BatchDataset, datasets.ZipDataset, *_CUTS)
        if _has(node, cuts) or any(_is_picked(found) for found in _nodes(node)):
            raise _UnknownError
        node.__init__([_plain(child) for child in node.children])
    elif isinstance(node, (datasets.BatchDataset, datasets.ZipDataset, *_PLAIN)) or not node.children:
        if isinstance(node, datasets.BatchDataset):
            node.drop_remainder = False
        node.python_multiprocessing = False
        node.children = [_plain(child) for child in node.children]
    else:
        raise _UnknownError
    for child in node.children:
        child.parent = [node]
    if not node.children:
        _counts_up(node)
    return node


def _counts_up(source: Any) -> None:
    held = getattr(source, "source", None)
    if getattr(source, "has_batch_sampler", False) or (held is not None and _is_spent(held)):
        raise _UnknownError
    if getattr(source, "sampler", None) is not None:
        source.sampler = ds.SequentialSampler()
    for name, value in (("shuffle_flag", 0), ("shuffle_option", ds.Shuffle.FALSE)):
        if hasattr(source, name):
            setattr(source, name, value)


def _is_spent(source: Any) -> bool:
    return not hasattr(source, "__getitem__") and not callable(source) and iter(source) is source


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _has(node: Any, kinds: tuple[Any, ...]) -> bool:
    return any(isinstance(found, kinds) for found in _nodes(node))


def _is_picked(node: Any) -> bool:
    """Whether a source gives some samples only, or twice."""
    sampler = getattr(node, "sampler", None)
    kinds = (ds.SequentialSampler, ds.RandomSampler)
    return sampler is not None and (type(sampler) not in kinds or sampler.num_samples is not None)


def _is_moved(node: Any) -> bool:
    """Whether rows come in another order than the source's, or not all of them."""
    cuts = (datasets.BatchDataset, *_ORDERS, *_CUTS)
    return node.is_shuffled() or _has(node, cuts) or any(_is_picked(found) for found in _nodes(node))


def reader_of(dataset: Any) -> Reader | None:
    """Return a reader of the samples of a pipeline's source in Python, and of the functions mapped over them."""
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
