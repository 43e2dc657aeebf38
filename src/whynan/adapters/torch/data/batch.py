"""A batch with other samples: one replaced by another, only some kept, all cloned; the original is never changed."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from whynan.adapters.torch.data import structure
from whynan.adapters.torch.data.summary import unseen


def batch_size(item: Any) -> int | None:
    """Return the number of samples, None where it cannot be told."""
    try:
        with torch._C.DisableTorchFunction():
            return structure.count_samples(item)
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
        return _Selection(size, list(positions), lengths, starts).of(item, True, structure.DEPTH)


def drop_sample(item: Any, k: int, size: int | None = None) -> Any:
    """Return the batch without sample k."""
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
        return structure.map_leaves(item, clone)


def n_bytes(item: Any) -> int:
    """Return the memory of all tensors and arrays, each counted once."""
    with torch._C.DisableTorchFunction():
        sizes = {id(leaf): _leaf_bytes(leaf) for _, leaf in structure.leaves(item)}
    return sum(sizes.values())


def versions(item: Any) -> tuple[int, ...]:
    """Return the version of each tensor, which every in-place operation on it raises; -1 where there is none."""
    with torch._C.DisableTorchFunction():
        return tuple(_version(leaf) for _, leaf in structure.leaves(item))


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
    totals = {structure.leading(leaf) for _, leaf in structure.leaves(item)}
    for _, leaf in structure.leaves(item):
        if leaf.ndim == 1 and len(leaf) == size and "int" in str(leaf.dtype):
            lengths = leaf.tolist()
            total = sum(lengths)
            if total != size and total in totals and min(lengths, default=-1) >= 0:
                found.setdefault(total, lengths)
    return found


def _starts(item: Any, size: int) -> dict[int, list[int]]:
    """Return the lengths that the offsets of bags tell (`EmbeddingBag`), by the id of the vector that holds them."""
    leaves = [leaf for _, leaf in structure.leaves(item)]
    totals = {structure.leading(leaf) for leaf in leaves if leaf.ndim == 1} - {size, None}
    found: dict[int, list[int]] = {}
    for leaf in leaves if len(totals) == 1 else ():
        if leaf.ndim == 1 and len(leaf) == size and "int" in str(leaf.dtype):
            bounds = [*leaf.tolist(), *totals]
            if bounds[0] == 0 and bounds == sorted(bounds):
                found[id(leaf)] = [end - start for start, end in itertools.pairwise(bounds)]
    return found if len(found) == 1 else {}


class _Selection:
    """Takes the same samples from every part of a batch."""

    def __init__(
        self, size: int, positions: list[int], lengths: dict[int, list[int]], starts: dict[int, list[int]]
    ) -> None:
        self.size = size
        self.positions = positions
        self.lengths = lengths
        self.starts = starts

    def of(self, value: Any, top: bool, depth: int) -> Any:
        if structure.is_leaf(value):
            return self.rows(value)
        if depth == 0:
            return value
        if structure.is_sequence(value):
            if structure.is_list_of_samples(value, top, self.size):
                return structure.rebuild_sequence(value, self.elements(value))
            return structure.rebuild_sequence(value, [self.of(part, False, depth - 1) for part in value])
        fields = structure.fields_of(value)
        if fields is None:
            return value
        numbers = self.numbers(dict(fields))
        if numbers is not None:
            return structure.rebuild_fields(value, [self.of_numbered(*field, numbers, depth) for field in fields])
        return structure.rebuild_fields(value, [self.of(part, False, depth - 1) for _, part in fields])

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
        is_table = structure.leading(part) == len(numbers) and (len(numbers) != self.size or name in _TABLES)
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
        n = structure.leading(leaf)
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
