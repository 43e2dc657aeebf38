"""How a batch is built: containers whose parts are its fields or its samples, and tensor leaves."""

import copy
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

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
    """Return a sequence of the same type with other parts."""
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
    """Return a copy of the structure with every tensor and array replaced by what `change` makes of it."""
    if is_leaf(value):
        return change(value)
    if depth and is_sequence(value):
        return rebuild_sequence(value, [map_leaves(part, change, depth - 1) for part in value])
    fields = fields_of(value) if depth else None
    if fields is None:
        return value
    return rebuild_fields(value, [map_leaves(part, change, depth - 1) for _, part in fields])


def leading(value: Any) -> int | None:
    """Return the size of a tensor's or an array's first dimension."""
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
