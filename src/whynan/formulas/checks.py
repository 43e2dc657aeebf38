"""Argument checks. Those of shapes cost nothing; those of values need the values, and stand behind `validate=True`."""

import math
from collections.abc import Callable
from typing import Any

from whynan.formulas.backend import Array, Backend
from whynan.formulas.numbers import REDUCTIONS


def reduction(value: str) -> None:
    if value not in REDUCTIONS:
        raise ValueError(f'reduction: {value!r} is none of "mean", "sum", "none"')


def positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: must be a finite number above 0, is {value}")


def not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: must be a finite number of at least 0, is {value}")


def within_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: must be in [0, 1], is {value}")


def agree(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return whether two shapes are equal, as far as their sizes are known."""
    sizes = zip(a, b, strict=False)
    return len(a) == len(b) and all(x == y for x, y in sizes if isinstance(x, int) and isinstance(y, int))


def same_shape(xp: Backend, name: str, x: Array, other: str, y: Array) -> None:
    if not agree(xp.shape(x), xp.shape(y)):
        raise ValueError(
            f"{name} has shape {show(xp.shape(x))} and {other} has shape {show(xp.shape(y))}: must be equal"
        )


def boxes(xp: Backend, **named: Array) -> None:
    for name, x in named.items():
        shape = xp.shape(x)
        if not shape or shape[-1] != 4:
            raise ValueError(f"{name}: boxes are (..., 4), as x1, y1, x2, y2; the shape is {show(shape)}")


def show(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"


def finite(xp: Backend, **named: Any) -> None:
    """Raise where an array holds NaN or Inf."""
    for name, x in named.items():
        look(xp, name, x, lambda values, np: ~np.isfinite(values), "must be finite")


def probabilities(xp: Backend, **named: Any) -> None:
    """Raise where an array holds something outside [0, 1]."""
    for name, x in named.items():
        look(xp, name, x, lambda values, np: ~((values >= 0) & (values <= 1)), "must be in [0, 1]")


def labels(xp: Backend, name: str, x: Any, classes: int, ignore_index: int | None) -> None:
    """Raise where an array of class indices holds something that is neither below `classes` nor ignored."""
    also = "" if ignore_index is None else f" or ignore_index={ignore_index}"

    def bad(values: Any, np: Any) -> Any:
        outside = (values < 0) | (values >= classes)
        return outside if ignore_index is None else outside & (values != ignore_index)

    look(xp, name, x, bad, f"must be a class index from 0 to {classes - 1}{also}")


def look(xp: Backend, name: str, x: Any, bad: Callable[[Any, Any], Any], rule: str) -> None:
    """Raise a ValueError that names the argument, the first bad value and its index."""
    values = xp.to_numpy(xp.asarray(x)) if x is not None else None
    if values is None:
        return
    import numpy as np

    found = np.argwhere(bad(values, np))
    if len(found):
        index = tuple(int(i) for i in found[0])
        place = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"{name}: {rule}, is {values[index]}{place}{more}")
