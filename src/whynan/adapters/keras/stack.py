"""What the frames of Keras' trainer on the stack tell of the run: the epoch, and the arrays that `fit` was given."""

import sys
from collections.abc import Iterator
from typing import Any

from whynan.adapters.common.arrays import is_array


def epoch_of_fit() -> int | None:
    """Return the epoch in which Keras' `fit` on the stack is; None outside of one."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and "trainer" in frame.f_code.co_filename:
            epoch = frame.f_locals.get("epoch")
            return int(epoch) if epoch is not None else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


def fit_arrays() -> list[Any]:
    """Return what the `fit` or `evaluate` on the stack was given: groups of arrays, a row for each sample."""
    groups = (tuple(v for value in pair for v in _leaves(value) if is_array(v)) for pair in _given())
    return [group for group in groups if group]


def fit_data() -> list[Any]:
    """Return the data sets, objects of any kind, that the `fit` or `evaluate` on the stack was given."""
    return [x for x, _ in _given() if x is not None]


def _given() -> Iterator[tuple[Any, Any]]:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("fit", "evaluate") and "trainer" in frame.f_code.co_filename:
            yield frame.f_locals.get("x"), frame.f_locals.get("y")
        frame = frame.f_back  # type: ignore[assignment]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value
