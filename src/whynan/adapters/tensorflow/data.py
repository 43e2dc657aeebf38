"""What a `tf.data` pipeline was made of, read again eagerly: the functions that were mapped, the generators."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import tensorflow as tf

from whynan.adapters.common.batch import find_index, parts_of
from whynan.adapters.common.data.reread import Call, Reader

_MAX_BYTES = 256 * 2**20


def mapped(dataset: Any, sources: Callable[[], list[Any]]) -> Iterator[Reader]:
    """Yield a reader for each function that a pipeline maps, the last one first; `sources` are arrays of samples."""
    node = dataset
    while node is not None:
        function = getattr(getattr(node, "_map_func", None), "_func", None)
        inner = getattr(node, "_input_dataset", None)
        if function is not None and inner is not None and "Flat" not in type(node).__name__:
            yield _Mapped(function, inner, sources).reader()
        node = inner


class _Mapped:
    """A mapped function and what it is given; that is kept, since a shuffle gives another order each time."""

    def __init__(self, function: Any, inner: Iterable[Any], sources: Callable[[], list[Any]]) -> None:
        self.function = function
        self.inner = inner
        self.sources = sources
        self.held: list[Any] = []

    def reader(self) -> Reader:
        return Reader(self._calls, index_of=self._index)

    def _calls(self) -> Iterator[Call]:
        is_first, room = not self.held, _MAX_BYTES
        for element in self.inner if is_first else self.held:
            room -= sum(int(tf.size(t)) * t.dtype.size for t in tf.nest.flatten(element) if hasattr(t, "dtype"))
            if room < 0:
                return
            if is_first:
                self.held.append(element)
            yield partial(self.function, *(element if type(element) is tuple else (element,)))

    def _index(self, number: int) -> int | None:
        parts = parts_of([("item", tf.nest.map_structure(lambda value: value[None], self.held[number]))])
        return find_index(parts, 0, self.sources())
