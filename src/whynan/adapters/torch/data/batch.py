"""A batch: how it is built, and the same with other samples; the original is never changed.

Containers have parts that are fields or samples; tensors are leaves. One sample is replaced by another, only some are
kept, all are cloned.
"""

import copy
import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from whynan.adapters.torch.opfacts import unseen

DEPTH = 8
"""Nesting that is followed; what lies deeper is kept as one object."""
_IMAGE_CHANNELS = (1, 3, 4)


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_leaf(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or is_array(value)


def is_sequence(value: Any) -> bool:
    """Lists and tuples; a named tuple is a record, a packed sequence has its own order of rows and stays whole."""
    return isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and not isinstance(value, torch.Size)


def fields_of(value: Any) -> list[tuple[str, Any]] | None:
    """Return a record's parts by the text that leads to them (".boxes", "['a b']"), None for what is no record."""
    if isinstance(value, Mapping):
        return [(_key(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        if isinstance(value, torch.nn.utils.rnn.PackedSequence):
            return None
        return [(f".{name}", part) for name, part in zip(value._fields, value)]
    held = _record_attributes(value)
    return None if held is None else [(f".{name}", part) for name, part in held.items()]


def _key(key: Any) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _record_attributes(value: Any) -> dict[str, Any] | None:
    """What a dataclass or a plain batch object holds; objects that hold no tensor are none of our business."""
    if is_leaf(value) or isinstance(value, (type, torch.nn.Module, list, tuple)) or callable(value):
        return None
    held = getattr(value, "__dict__", None)
    if not isinstance(held, dict):
        if not dataclasses.is_dataclass(value):
            return None
        held = {
            field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
        }
    has_parts = any(
        is_leaf(part) or (isinstance(part, (list, tuple)) and part and is_leaf(part[0])) for part in held.values()
    )
    return held if has_parts else None


def rebuild_fields(value: Any, parts: list[Any]) -> Any:
    """Return a shallow copy of a record with other parts, given in the order of `fields_of`."""
    if isinstance(value, tuple):
        return type(value)(*parts)
    made = copy.copy(value)
    if isinstance(value, Mapping):
        for key, part in zip(list(value), parts):
            made[key] = part
        return made
    for name, part in zip(list(_record_attributes(value) or ()), parts):
        object.__setattr__(made, name, part)
    return made


def rebuild_sequence(value: Any, parts: list[Any]) -> Any:
    if type(value) in (list, tuple):
        return type(value)(parts)
    try:
        return type(value)(parts)
    except Exception:
        return tuple(parts) if isinstance(value, tuple) else parts


def leaves(value: Any, name: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield every tensor and array with the text that leads to it from `name`."""
    if is_leaf(value):
        yield name, value
    elif depth and is_sequence(value):
        for place, part in enumerate(value):
            yield from leaves(part, f"{name}[{place}]", depth - 1)
    elif depth:
        for step, part in fields_of(value) or ():
            yield from leaves(part, f"{name}{step}" if name else step.lstrip("."), depth - 1)


def map_leaves(value: Any, change: Callable[[Any], Any], depth: int = DEPTH) -> Any:
    if is_leaf(value):
        return change(value)
    if depth and is_sequence(value):
        return rebuild_sequence(value, [map_leaves(part, change, depth - 1) for part in value])
    fields = fields_of(value) if depth else None
    if fields is None:
        return value
    return rebuild_fields(value, [map_leaves(part, change, depth - 1) for _, part in fields])


def leading(value: Any) -> int | None:
    return int(value.shape[0]) if is_leaf(value) and value.ndim else None


def is_list_of_samples(value: Any, top: bool, size: int | None) -> bool:
    """Tell whether a list's elements are samples, and not the fields (images, targets, ...) of a batch.

    Below the top a list with one element per sample holds samples, unless its elements are batched tensors
    themselves. At the top there is no size to go by, and the form of the elements decides.
    """
    if not value:
        return False
    if not top:
        return len(value) == size and not all(leading(part) == size for part in value)
    if all(isinstance(part, Mapping) for part in value):
        return all(list(part) == list(value[0]) for part in value) and (len(value) > 1 or isinstance(value, list))
    if all(is_leaf(part) for part in value):
        return _are_images(value)
    if all(isinstance(part, (list, tuple)) and part for part in value):
        return any(len({_form(element) for element in part}) > 1 for part in value) and (
            len({len(part) for part in value}) == 1 and len({tuple(map(_form, part)) for part in value}) == 1
        )
    return False


def _are_images(parts: Any) -> bool:
    return all(part.ndim == 3 and part.dtype == parts[0].dtype and leading(part) in _IMAGE_CHANNELS for part in parts)


def _form(value: Any) -> Any:
    return ("leaf", value.ndim, str(value.dtype)) if is_leaf(value) else type(value)


def count_samples(value: Any) -> int | None:
    """Return how many samples a batch has: what most of its fields agree on, the first of them where they do not."""
    if is_leaf(value):
        return leading(value)
    if is_sequence(value) and is_list_of_samples(value, top=True, size=None):
        return len(value)
    votes = Counter(_votes(value, top=True, depth=DEPTH))
    return max(votes, key=lambda size: votes[size]) if votes else None


def _votes(value: Any, top: bool, depth: int) -> Iterator[int]:
    size = leading(value)
    if size is not None:
        yield size
    elif depth and is_sequence(value):
        if not top and value:
            yield len(value)
        if top:
            for part in value:
                yield from _votes(part, False, depth - 1)
        elif value and all(leading(part) is not None and leading(part) == leading(value[0]) for part in value):
            yield leading(value[0]) or 0
    elif depth and (fields := fields_of(value)) is not None:
        for _, part in fields:
            yield from _votes(part, False, depth - 1)


def batch_size(item: Any) -> int | None:
    """Return the number of samples, None where it cannot be told."""
    try:
        with torch._C.DisableTorchFunction():
            return count_samples(item)
    except Exception:
        return None


def keep_samples(item: Any, positions: Sequence[int], size: int | None = None) -> Any:
    """Return a batch that has only the samples at `positions`, in that order. A position may come twice.

    `size` is the batch size where the caller knows it better: for one field of a batch, or several items together.
    Tensors of concatenated samples are cut along where the batch holds their lengths, and rows that begin with the
    number of their image are numbered anew.
    """
    size = batch_size(item) if size is None else size
    if size is None or not all(0 <= position < size for position in positions):
        raise ValueError(f"no samples {list(positions)} in a batch of {size}")
    with unseen():
        lengths, starts = _lengths(item, size), _starts(item, size)
        for of_bags in starts.values():
            lengths.setdefault(sum(of_bags), of_bags)
        return _Selection(size, list(positions), lengths, starts).of(item, True, DEPTH)


def drop_sample(item: Any, k: int, size: int | None = None) -> Any:
    size = batch_size(item) if size is None else size
    return keep_samples(item, [position for position in range(size or 0) if position != k], size)


def replace_sample(item: Any, k: int, j: int, size: int | None = None) -> Any:
    """Return a batch of the same size in which sample k is a copy of sample j in every field."""
    size = batch_size(item) if size is None else size
    return keep_samples(item, [j if position == k else position for position in range(size or 0)], size)


def clone_batch(item: Any) -> Any:
    """Return a copy that shares no tensor, array or container with the batch; tensors that were one stay one."""
    made: dict[int, Any] = {}

    def clone(leaf: Any) -> Any:
        if id(leaf) not in made:
            made[id(leaf)] = _like(leaf.detach().clone(), leaf) if isinstance(leaf, torch.Tensor) else leaf.copy()
        return made[id(leaf)]

    with unseen():
        return map_leaves(item, clone)


def n_bytes(item: Any) -> int:
    """Return the memory of all tensors and arrays, each counted once."""
    with torch._C.DisableTorchFunction():
        sizes = {id(leaf): _leaf_bytes(leaf) for _, leaf in leaves(item)}
    return sum(sizes.values())


def versions(item: Any) -> tuple[int, ...]:
    with torch._C.DisableTorchFunction():
        return tuple(_version(leaf) for _, leaf in leaves(item))


def _leaf_bytes(leaf: Any) -> int:
    try:
        return int(leaf.nbytes)
    except Exception:  # sparse and nested layouts have no one size
        return 0


def _version(leaf: Any) -> int:
    try:
        return int(leaf._version)
    except Exception:  # an array, or a tensor made under inference_mode
        return -1


def _lengths(item: Any, size: int) -> dict[int, list[int]]:
    """Return the integer vectors that hold one length per sample, by their sum: the rows of concatenated samples."""
    found: dict[int, list[int]] = {}
    totals = {leading(leaf) for _, leaf in leaves(item)}
    for _, leaf in leaves(item):
        if leaf.ndim == 1 and len(leaf) == size and "int" in str(leaf.dtype):
            lengths = leaf.tolist()
            total = sum(lengths)
            if total != size and total in totals and min(lengths, default=-1) >= 0:
                found.setdefault(total, lengths)
    return found


def _starts(item: Any, size: int) -> dict[int, list[int]]:
    """Return the lengths that the offsets of bags tell (`EmbeddingBag`), by the id of the vector that holds them."""
    tensors = [leaf for _, leaf in leaves(item)]
    totals = {leading(leaf) for leaf in tensors if leaf.ndim == 1} - {size, None}
    found: dict[int, list[int]] = {}
    for leaf in tensors if len(totals) == 1 else ():
        if leaf.ndim == 1 and len(leaf) == size and "int" in str(leaf.dtype):
            bounds = [*leaf.tolist(), *totals]
            if bounds[0] == 0 and bounds == sorted(bounds):
                found[id(leaf)] = [end - start for start, end in itertools.pairwise(bounds)]
    return found if len(found) == 1 else {}


class _Selection:
    def __init__(
        self, size: int, positions: list[int], lengths: dict[int, list[int]], starts: dict[int, list[int]]
    ) -> None:
        self.size = size
        self.positions = positions
        self.lengths = lengths
        self.starts = starts

    def of(self, value: Any, top: bool, depth: int) -> Any:
        if is_leaf(value):
            return self.rows(value)
        if depth == 0:
            return value
        if is_sequence(value):
            if is_list_of_samples(value, top, self.size):
                return rebuild_sequence(value, self.elements(value))
            return rebuild_sequence(value, [self.of(part, False, depth - 1) for part in value])
        fields = fields_of(value)
        if fields is None:
            return value
        numbers = self.numbers(dict(fields))
        if numbers is not None:
            return rebuild_fields(value, [self.of_numbered(*field, numbers, depth) for field in fields])
        return rebuild_fields(value, [self.of(part, False, depth - 1) for _, part in fields])

    def numbers(self, fields: dict[str, Any]) -> list[int] | None:
        """Return the image that each row of a record's tables belongs to, where one vector says so, as Ultralytics'."""
        vector = fields.get(".batch_idx")
        if not isinstance(vector, torch.Tensor) or vector.ndim != 1:
            return None
        numbers = [int(number) for number in vector.tolist()]
        return numbers if numbers == sorted(numbers) and all(n in range(self.size) for n in numbers) else None

    def of_numbered(self, name: str, part: Any, numbers: list[int], depth: int) -> Any:
        """Take a table's rows by their image; where there are as many rows as images the name tells a table."""
        rows = [(new, row) for new, old in enumerate(self.positions) for row, n in enumerate(numbers) if n == old]
        if name == ".batch_idx":
            return torch.tensor([new for new, _ in rows], dtype=part.dtype, device=part.device)
        is_table = leading(part) == len(numbers) and (len(numbers) != self.size or name in _TABLES)
        return _take(part, [row for _, row in rows]) if is_table else self.of(part, False, depth - 1)

    def elements(self, samples: Any) -> list[Any]:
        """A sample that comes twice is cloned: code that changes a target in place must not do so twice."""
        taken: set[int] = set()
        made = []
        for position in self.positions:
            made.append(clone_batch(samples[position]) if position in taken else samples[position])
            taken.add(position)
        return made

    def rows(self, leaf: Any) -> Any:
        numbered = self.numbered_rows(leaf)
        if numbered is not None:
            return numbered
        if id(leaf) in self.starts:
            of_bags = [self.starts[id(leaf)][position] for position in self.positions]
            starts = [0, *itertools.accumulate(of_bags)][: len(of_bags)]
            made = torch.tensor(starts, dtype=torch.long)
            return made.to(leaf) if isinstance(leaf, torch.Tensor) else made.numpy().astype(leaf.dtype)
        n = leading(leaf)
        if n == self.size:
            return _take(leaf, self.positions)
        lengths = self.lengths.get(n) if n is not None else None
        if lengths is None:
            return leaf
        starts = [sum(lengths[:position]) for position in range(self.size)]
        return _take(leaf, [starts[p] + row for p in self.positions for row in range(lengths[p])])

    def numbered_rows(self, leaf: Any) -> Any:
        """Targets of all images in one table [n, 6]: image number, class and box, as YOLO programs build it."""
        if leaf.ndim != 2 or leaf.shape[1] != 6 or not isinstance(leaf, torch.Tensor) or self.size < 2:
            return None
        numbers = leaf[:, 0].tolist()
        if not numbers or numbers != sorted(numbers) or not all(n in range(self.size) for n in numbers):
            return None
        taken = [(new, row) for new, old in enumerate(self.positions) for row, n in enumerate(numbers) if n == old]
        made = _take(leaf, [row for _, row in taken])
        made[:, 0] = torch.tensor([new for new, _ in taken], dtype=made.dtype, device=made.device)
        return made


_TABLES = (".cls", ".bboxes", ".keypoints", ".segments")


def _take(leaf: Any, rows: list[int]) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf[rows]
    index = torch.tensor(rows, dtype=torch.long, device=leaf.device)
    made = leaf.detach().as_subclass(torch.Tensor).index_select(0, index)
    if made.ndim == 4 and leaf.is_contiguous(memory_format=torch.channels_last) and not leaf.is_contiguous():
        made = made.contiguous(memory_format=torch.channels_last)
    return _like(made, leaf)


def _like(made: Any, leaf: Any) -> Any:
    """Give a new tensor the class, attributes and `requires_grad` of the one that it stands for."""
    if type(leaf) is not torch.Tensor and type(leaf) is not type(made):
        made = made.as_subclass(type(leaf))
    if type(leaf) is not torch.Tensor:
        vars(made).update({name: copy.copy(value) for name, value in vars(leaf).items()})
    return made.requires_grad_(True) if leaf.requires_grad else made
