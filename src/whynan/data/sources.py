"""Samples out of anything that people train from: datasets, loaders, pipelines, arrays, iterables.

A kind is told by what an object can do and by the framework that is loaded already; nothing is imported."""

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    error: Exception


@dataclass(frozen=True)
class Single:
    sample: Any


@dataclass(frozen=True)
class Source:
    """Where samples come from. `items` yields (indices, item): one index, or one for each sample of a batch."""

    kind: str
    name: str
    length: int | None
    items: Iterator[tuple[list[int], Any]]
    is_batched: bool
    dataset: Any = None


def source_of(data: Any) -> Source:
    """Return the samples of an object. Raises TypeError where it is none of the kinds that are known."""
    for make in (_torch_loader, _tf_dataset, _mindspore, _keras, _arrays, _indexable, _iterable):
        found = make(data)
        if found is not None:
            return found
    raise TypeError(
        f"cannot take samples from {type(data).__name__}: it is no path, array, Dataset, DataLoader, tf.data.Dataset, "
        "PyDataset, MindSpore dataset, and cannot be indexed or iterated over"
    )


def _is_of(data: Any, module: str, name: str) -> bool:
    """Tell whether an object is of a class of a framework that is loaded."""
    kind: Any = sys.modules.get(module)
    for step in name.split("."):
        kind = getattr(kind, step, None)
    return isinstance(kind, type) and isinstance(data, kind)


def _torch_loader(data: Any) -> Source | None:
    if not _is_of(data, "torch.utils.data", "DataLoader"):
        return None
    name = f"DataLoader({type(data.dataset).__name__})"
    sampler = getattr(data, "batch_sampler", None)
    if sampler is None or _is_of(data.dataset, "torch.utils.data", "IterableDataset"):
        is_batched = data.batch_size is not None
        return Source("torch", name, _length(data), _counted(data, is_batched), is_batched, data.dataset)
    # The indices are drawn first, and the loader is made again around them: so each sample's index is known.
    batches = [list(map(int, batch)) for batch in sampler]
    again = type(data)(
        data.dataset,
        batch_sampler=batches,
        num_workers=data.num_workers,
        collate_fn=data.collate_fn,
        worker_init_fn=data.worker_init_fn,
        timeout=data.timeout,
        multiprocessing_context=data.multiprocessing_context,
    )
    return Source("torch", name, len(batches), _paired(again, batches), True, data.dataset)


def _paired(loader: Any, batches: list[list[int]]) -> Iterator[tuple[list[int], Any]]:
    """A batch that cannot be made is taken apart: one bad sample must not hide the others."""
    items = iter(loader)
    for batch in batches:
        try:
            yield batch, next(items)
        except StopIteration:
            return
        except Exception as error:
            yield from _one_by_one(loader.dataset, batch, error)


def _one_by_one(dataset: Any, batch: list[int], error: Exception) -> Iterator[tuple[list[int], Any]]:
    n_failed = 0
    for index in batch:
        try:
            sample = dataset[index]
        except Exception as own:
            n_failed += 1
            yield [index], Failure(own)
        else:
            yield [index], Single(sample)
    if not n_failed:  # each sample can be loaded: it is collating them that fails
        yield batch[:1], Failure(error)


def _tf_dataset(data: Any) -> Source | None:
    if not (hasattr(data, "as_numpy_iterator") and hasattr(data, "element_spec")):
        return None
    shapes = [tuple(shape) for spec in _flatten(data.element_spec) if (shape := _shape(spec)) is not None]
    # `batch` leaves the number of samples open, or gives all parts the same one.
    is_batched = bool(shapes) and all(shape for shape in shapes) and len({shape[0] for shape in shapes}) == 1
    is_batched = is_batched and (shapes[0][0] is None or len(shapes) > 1)
    return Source("tensorflow", type(data).__name__, None, _counted(data.as_numpy_iterator(), is_batched), is_batched)


def _shape(spec: Any) -> Any:
    shape = getattr(spec, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    return list(shape)


def _flatten(spec: Any) -> list[Any]:
    if isinstance(spec, Mapping):
        return [leaf for part in spec.values() for leaf in _flatten(part)]
    if isinstance(spec, (tuple, list)):
        return [leaf for part in spec for leaf in _flatten(part)]
    return [spec]


def _mindspore(data: Any) -> Source | None:
    if not (hasattr(data, "create_dict_iterator") and hasattr(data, "get_dataset_size")):
        return None
    is_batched = any(type(step).__name__ == "BatchDataset" for step in _pipeline(data))
    items = data.create_dict_iterator(num_epochs=1, output_numpy=True)
    return Source("mindspore", type(data).__name__, data.get_dataset_size(), _counted(items, is_batched), is_batched)


def _pipeline(data: Any) -> Iterator[Any]:
    """Yield the operations of a MindSpore pipeline, the last one first."""
    yield data
    for child in getattr(data, "children", None) or ():
        yield from _pipeline(child)


def _keras(data: Any) -> Source | None:
    """A PyDataset (once called Sequence) gives a batch for each index."""
    names = {
        kind.__name__
        for kind in type(data).__mro__
        if kind.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow")
    }
    if not names & {"PyDataset", "Sequence"}:
        return None
    n = getattr(data, "num_batches", None)
    n = _length(data) if n is None else n
    return Source("keras", type(data).__name__, n, _fetched(data, n, True), True)


def _arrays(data: Any) -> Source | None:
    """One array, or a tuple or mapping of arrays with as many rows each."""
    parts = list(data.values()) if isinstance(data, Mapping) else list(data) if isinstance(data, tuple) else [data]
    if not parts or not all(_is_array(part) and part.ndim >= 1 for part in parts):
        return None
    if len({len(part) for part in parts}) != 1:
        lengths = ", ".join(str(len(part)) for part in parts)
        raise TypeError(f"arrays of one data set have as many rows each; these have {lengths}")
    return Source("arrays", "arrays", len(parts[0]), _sliced(data, len(parts[0])), True)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "ndim")


def _sliced(data: Any, n: int, step: int = 256) -> Iterator[tuple[list[int], Any]]:
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        if isinstance(data, Mapping):
            some: Any = {name: part[rows] for name, part in data.items()}
        else:
            some = tuple(part[rows] for part in data) if isinstance(data, tuple) else (data[rows],)
        yield list(range(rows.start, rows.stop)), some


def _indexable(data: Any) -> Source | None:
    if isinstance(data, (str, bytes, Mapping)) or not hasattr(data, "__getitem__") or _length(data) is None:
        return None
    kind = "torch" if _is_of(data, "torch.utils.data", "Dataset") else "python"
    return Source(kind, type(data).__name__, len(data), _fetched(data, len(data), False), False, data)


def _fetched(data: Any, n: int | None, is_batched: bool) -> Iterator[tuple[list[int], Any]]:
    n_before = 0
    for index in itertools.count() if n is None else range(n):
        try:
            item = data[index]
        except IndexError:
            if n is None:
                return
            item = Failure(IndexError(f"index {index} is out of range, although the length is {n}"))
        except Exception as error:
            item = Failure(error)
        if not is_batched:
            yield [index], item
            continue
        size = 1 if isinstance(item, Failure) else _batch_size(item)
        yield list(range(n_before, n_before + size)), item
        n_before += size


def _iterable(data: Any) -> Source | None:
    if not hasattr(data, "__iter__") or isinstance(data, (str, bytes)):
        return None
    kind = "torch" if _is_of(data, "torch.utils.data", "IterableDataset") else "python"
    return Source(kind, type(data).__name__, _length(data), _counted(data, False), False, data)


def _counted(data: Any, is_batched: bool) -> Iterator[tuple[list[int], Any]]:
    n_before = 0
    items = iter(data)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            yield [n_before], Failure(error)
            return  # an iterator that has raised is at its end
        size = _batch_size(item) if is_batched else 1
        yield list(range(n_before, n_before + size)), item
        n_before += size


def _batch_size(item: Any) -> int:
    if _is_array(item):
        return int(item.shape[0]) if item.ndim else 1
    if isinstance(item, Mapping):
        return next((_batch_size(part) for part in item.values()), 1)
    if isinstance(item, (tuple, list)) and item:
        return (
            _batch_size(item[0])
            if _is_array(item[0]) or isinstance(item[0], Mapping)
            else len(item[0])
            if isinstance(item[0], (tuple, list))
            else len(item)
        )
    return 1


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except Exception:
        return None
