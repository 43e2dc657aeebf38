"""Where a hand-made batch came from: the list that holds its very object, the table that holds its very row."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from whynan.adapters.torch.data.summary import unseen

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
