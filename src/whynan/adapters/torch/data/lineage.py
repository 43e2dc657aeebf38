"""Where the rows of a batch came from: the indices of a loader, the list or the table that holds its very row."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset

from whynan.adapters.torch.opfacts import unseen

_DEPTH = 16
"""Wrappers within wrappers that are followed; real programs have two or three."""

_PATH_NAMES = (
    ("samples", "imgs", "images", "image_paths", "img_paths", "image_files", "img_files", "im_files", "paths", "files")
    + ("filenames", "file_names", "file_list", "file_paths", "filepaths", "items", "df", "frame", "annotations", "data")
    + ("records", "metadata", "entries", "rows", "names", "ids")
)
_PATH_KEYS = ("file_name", "path", "image_path", "img_path", "image", "img", "file", "filename", "filepath", "name")
_ROOT_NAMES = (
    "root",
    "img_dir",
    "image_dir",
    "images_dir",
    "img_root",
    "image_root",
    "data_dir",
    "dir",
    "folder",
    "path",
)


@dataclass(frozen=True)
class ResolvedSample:
    """A sample in the dataset that the user made: subsets undone, a concatenation left whole.

    `detail` says what the index alone does not ("part 1 (Scans), index 12"); `path` is the sample's file where the
    dataset holds a list of them.
    """

    dataset: Any
    index: Any
    detail: str | None = None
    path: str | None = None


def resolve(dataset: Any, index: Any) -> ResolvedSample:
    """Return where `dataset[index]` really comes from. Fetches no sample and raises nothing."""
    try:
        dataset, index = _beneath(dataset, index)
        return ResolvedSample(dataset, index, _detail(dataset, index), _path(dataset, index, _DEPTH))
    except Exception:
        return ResolvedSample(dataset, index)


def _beneath(dataset: Any, index: Any) -> tuple[Any, Any]:
    """Follow subsets and wrappers that keep the order of what they wrap."""
    for _ in range(_DEPTH):
        step = _one_beneath(dataset, index)
        if step is None:
            break
        dataset, index = step
    return dataset, index


def _one_beneath(dataset: Any, index: Any) -> tuple[Any, Any] | None:
    held = _held_by(dataset)
    inner = held.get("dataset")
    if inner is None or not hasattr(inner, "__getitem__"):
        return None
    indices = held.get("indices")
    if indices is not None and (isinstance(dataset, Subset) or _length(indices) == _length(dataset)):
        return inner, _number(indices[index])
    if _length(inner) is not None and _length(inner) == _length(dataset):
        return inner, index
    return None


def _detail(dataset: Any, index: Any) -> str | None:
    if not isinstance(dataset, ConcatDataset):
        return None
    part = _part(dataset, index)
    if part is None:
        return None
    place, inner, inner_index = part
    inner, inner_index = _beneath(inner, inner_index)
    return f"part {place} ({type(inner).__name__}), index {inner_index}"


def _part(dataset: Any, index: Any) -> tuple[int, Any, int] | None:
    index = index + dataset.cumulative_sizes[-1] if index < 0 else index
    start = 0
    for place, end in enumerate(dataset.cumulative_sizes):
        if index < end:
            return place, dataset.datasets[place], index - start
        start = end
    return None


def _path(dataset: Any, index: Any, depth: int) -> str | None:
    dataset, index = _beneath(dataset, index)
    if depth == 0 or not isinstance(index, int):
        return None
    if isinstance(dataset, ConcatDataset):
        part = _part(dataset, index)
        return None if part is None else _path(part[1], part[2], depth - 1)
    if isinstance(dataset, StackDataset):
        members = dataset.datasets.values() if isinstance(dataset.datasets, dict) else dataset.datasets
        return next((path for member in members if (path := _path(member, index, depth - 1))), None)
    held = _held_by(dataset)
    name = _coco_file(held, index) or _listed_file(held, index, _length(dataset))
    return None if name is None else _rooted(name, held)


def _coco_file(held: dict[str, Any], index: int) -> str | None:
    images = getattr(held.get("coco"), "imgs", None)
    if not isinstance(images, dict) or "ids" not in held:
        return None
    entry = images.get(held["ids"][index])
    return str(entry["file_name"]) if isinstance(entry, dict) and "file_name" in entry else None


def _listed_file(held: dict[str, Any], index: int, n: int | None) -> str | None:
    if n is None:
        return None
    known = [name for name in _PATH_NAMES if name in held]
    for name in known + [name for name in held if name not in known]:
        try:
            found = _file_in(_entry(held[name], index, n), named=name in known)
        except Exception:
            found = None
        if found is not None:
            return found
    return None


def _entry(values: Any, index: int, n: int) -> Any:
    """Return element `index` of a plain sequence, an array of strings or a data frame with one entry per sample."""
    if isinstance(values, (list, tuple)):
        return values[index] if len(values) == n else None
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(values, numpy.ndarray):
        return values[index] if values.dtype.kind in "OUS" and len(values) == n else None
    if type(values).__module__.split(".")[0] == "pandas" and len(values) == n:
        row = values.iloc[index]
        return row.to_dict() if hasattr(row, "to_dict") else row
    return None


def _file_in(entry: Any, named: bool) -> str | None:
    if isinstance(entry, os.PathLike):
        return str(os.fspath(entry))
    if isinstance(entry, str):
        return entry if _looks_like_file(entry) else None
    if isinstance(entry, dict):
        values = [entry[key] for key in _PATH_KEYS if key in entry] + list(entry.values())
    elif isinstance(entry, (list, tuple)) or (named and getattr(entry, "ndim", 0) == 1):
        values = list(entry[:8])
    else:
        return None
    return next((found for value in values if not isinstance(value, dict) and (found := _file_in(value, named))), None)


def _looks_like_file(text: str) -> bool:
    """A name with an extension; a sentence, a number and a class name are none."""
    if not text or len(text) > 1024 or "\n" in text:
        return False
    extension = os.path.splitext(text)[1]
    return 2 <= len(extension) <= 6 and extension[1:].isalnum() and not extension[1:].isdigit() and text[-1] != "."


def _rooted(name: str, held: dict[str, Any]) -> str:
    """Join a bare file name to the dataset's folder where the file is there."""
    if os.path.isabs(name):
        return name
    for root in _ROOT_NAMES:
        folder = held.get(root)
        if isinstance(folder, (str, os.PathLike)) and os.path.exists(os.path.join(folder, name)):
            return os.path.join(os.fspath(folder), name)
    return name


def _held_by(dataset: Any) -> dict[str, Any]:
    """What the object holds itself; properties and `__getattr__` are the user's code and stay untouched."""
    held = dict(getattr(dataset, "__dict__", {}))
    for name in (name for kind in type(dataset).__mro__ for name in _slots(kind)):
        try:
            held.setdefault(name, object.__getattribute__(dataset, name))
        except AttributeError:
            continue
    return held


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except Exception:
        return None


def _number(index: Any) -> Any:
    return index.item() if hasattr(index, "item") else index


_N_ELEMENTS = 2_000_000
"""Elements of one container that are compared by identity."""
_MAX_BYTES = 1 << 30
"""Bytes of one table that are compared; the search of its first column is what costs."""
MIN_ROWS = 8
"""A table of fewer rows is a batch, a box, a matrix of weights, but no data set."""
_BUDGET_S = 2.0

Namespace = dict[str, Any]


def find_in_containers(
    obj: Any, namespaces: list[Namespace], min_length: int = 2, budget_s: float = _BUDGET_S
) -> tuple[str, int] | None:
    """Return the name and the index under which a list or tuple holds this very object.

    Attributes of the objects in the namespaces are looked at too ("data.samples"). A tuple's parts count for the
    tuple: a batch `(x, y)` unpacked from `picked[7]` is found by its x. The longest container wins: a list of the
    current batch alone says little, and `min_length` above the batch size rules it out. A container that has
    it twice is passed over.
    """
    if obj is None or isinstance(obj, (bool, int, float, str, bytes)):
        return None
    deadline = time.monotonic() + budget_s
    best: tuple[int, str, int] | None = None
    for name, container in held(namespaces):
        if not isinstance(container, (list, tuple)) or len(container) < min_length or container is obj:
            continue
        if time.monotonic() > deadline:
            break
        index = _index_of(obj, container)
        if index is not None and (best is None or len(container) > best[0]):
            best = (len(container), name, index)
    return None if best is None else (best[1], best[2])


def row_of(
    row: Any, namespaces: list[Namespace], min_rows: int = MIN_ROWS, budget_s: float = _BUDGET_S
) -> tuple[str, int] | None:
    """Return the name and the index of the table whose row has exactly these values, NaN equal to NaN.

    The largest table wins: the others are its splits, and the batch itself, which `min_rows` above the batch size
    rules out where the data set is out of sight. None where no table has the row or one has it twice. A table of
    another precision is rounded to the row's before it is compared.
    """
    try:
        with unseen():
            wanted = _tensor(row)
            if wanted is None or wanted.numel() == 0:
                return None
            return _search(row, wanted.cpu(), namespaces, min_rows, time.monotonic() + budget_s)
    except Exception:
        return None


def _search(
    row: Any, wanted: Any, namespaces: list[Namespace], min_rows: int, deadline: float
) -> tuple[str, int] | None:
    found: tuple[str, int, int] | None = None
    for name, value in held(namespaces):
        if time.monotonic() > deadline:
            break
        table = _table(value, wanted)
        if table is None or value is row or len(table) < min_rows:
            continue
        places = _rows_equal(table, wanted)
        if len(places) > 1:
            return None
        if places and (found is None or len(table) > found[2]):
            found = (name, places[0], len(table))
    return None if found is None else (found[0], found[1])


def held(namespaces: list[Namespace]) -> Iterator[tuple[str, Any]]:
    """Yield variables, and the attributes of those that are objects of the user's or datasets, each object once."""
    seen: set[int] = set()
    for namespace in namespaces:
        for name, value in list(namespace.items()):
            if name.startswith("__") or id(value) in seen:
                continue
            seen.add(id(value))
            yield name, value
            if isinstance(value, dict):
                parts = [(f"{name}[{key!r}]", part) for key, part in list(value.items())[:256]]
            else:
                parts = [(f"{name}.{key}", part) for key, part in _attributes(value)]
            for inner, part in parts:
                if id(part) not in seen and (isinstance(part, (list, tuple, torch.Tensor)) or _is_array(part)):
                    seen.add(id(part))
                    yield inner, part


def _attributes(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, (type, torch.nn.Module, torch.optim.Optimizer, torch.Tensor)) or callable(value):
        return []
    held = getattr(value, "__dict__", None)
    is_module = type(value).__name__ == "module"
    if is_module or not isinstance(held, dict):
        return []
    found = list(held.items())
    inner = held.get("dataset")
    if inner is not None and hasattr(inner, "__dict__"):  # a loader's or a subset's
        found += [(f"dataset.{key}", part) for key, part in vars(inner).items()]
    # TensorDataset and its like keep a tuple of tables.
    parts = [
        (f"{key}[{k}]", part) for key, value in found if isinstance(value, tuple) for k, part in enumerate(value[:8])
    ]
    return found + parts


def _index_of(obj: Any, container: Any) -> int | None:
    """Return the one place where a container holds the object, itself or as a part of an element."""
    places = [place for place, element in enumerate(container[:_N_ELEMENTS]) if element is obj]
    if not places:
        places = [
            place
            for place, element in enumerate(container[:_N_ELEMENTS])
            if isinstance(element, (tuple, list, dict)) and len(element) <= 32 and _has_part(element, obj)
        ]
    return places[0] if len(places) == 1 else None


def _has_part(element: Any, obj: Any) -> bool:
    parts = element.values() if isinstance(element, dict) else element
    return any(part is obj for part in parts)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        plain = value.detach().as_subclass(torch.Tensor)
        return plain if plain.layout is torch.strided and plain.device.type != "meta" else None
    if _is_array(value) and value.dtype.kind in "biuf":
        return torch.as_tensor(value) if value.flags.writeable else torch.as_tensor(value.copy())
    return None


def _table(value: Any, wanted: Any) -> Any:
    """Return a value as a table whose rows could be the wanted one."""
    if not (isinstance(value, torch.Tensor) or _is_array(value)):
        return None
    if value.ndim != wanted.ndim + 1 or tuple(value.shape[1:]) != tuple(wanted.shape):
        return None
    if value.nbytes > _MAX_BYTES:
        return None
    return _tensor(value)


def _rows_equal(table: Any, wanted: Any) -> list[int]:
    """Return the places of the rows with the wanted bits: by a few columns first, then in full."""
    if table.dtype != wanted.dtype and not (table.is_floating_point() and wanted.is_floating_point()):
        return []
    flat, target = table.reshape(len(table), -1), wanted.reshape(-1).to(table.device)
    places = torch.arange(len(flat), device=table.device)
    for column in sorted({0, target.numel() // 2, target.numel() - 1}):
        places = places[_same(flat[places, column].to(target.dtype), target[column])]
    places = places[:4096]
    if not len(places):
        return []
    equal = _same(flat[places].to(target.dtype), target).all(1)
    return [int(place) for place in places[equal][:2].tolist()]


def _same(values: Any, wanted: Any) -> Any:
    if not wanted.is_floating_point():
        return values == wanted
    return (values == wanted) | (torch.isnan(values) & torch.isnan(wanted))
