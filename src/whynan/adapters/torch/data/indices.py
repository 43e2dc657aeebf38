"""From the index that a loader drew to the sample as the user knows it: through subsets, to its file."""

import os
import sys
from dataclasses import dataclass
from typing import Any

from torch.utils.data import ConcatDataset, StackDataset, Subset

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
    held = _attributes(dataset)
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
    """Return which part of a concatenation holds `index`, and the index there."""
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
    held = _attributes(dataset)
    name = _coco_file(held, index) or _listed_file(held, index, _length(dataset))
    return None if name is None else _rooted(name, held)


def _coco_file(held: dict[str, Any], index: int) -> str | None:
    """The file of image `ids[index]` in an annotation file read by pycocotools."""
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


def _attributes(dataset: Any) -> dict[str, Any]:
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
