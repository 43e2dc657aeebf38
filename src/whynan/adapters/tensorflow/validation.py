"""Losses that nothing is trained with: what a `tf.function` without a tape returns, what a loss object gives, what an
eager loop reads as a number, `float(loss)` or `loss.numpy()`.

What counts is what the script calls a loss. Metrics may be NaN for good reasons (a class that does not occur).
"""

import ast
import functools
import inspect
import re
import sys
import textwrap
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.common.loops import is_bad_loss, speaks_of_loss

_LOSS = re.compile(r"loss|cost|nll|mse\b|rmse|entropy|bce|elbo|objective|deviance|likelihood|error", re.IGNORECASE)


def loss_in(function: Any, result: Any) -> Any:
    """Return the first number among what a function returned that the script calls a loss; None if there is none."""
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    for place in _places_of_losses(function.python_function):
        value = values[place] if place < len(values) else None
        if value is not None and tf.is_tensor(value) and value.dtype.is_floating and value.shape.num_elements() == 1:
            return value
    return None


def is_bad(loss: Any) -> bool:
    array = to_numpy(loss)
    return array is not None and not all_finite(array)


@functools.lru_cache(maxsize=256)
def _places_of_losses(function: Any) -> tuple[int, ...]:
    """Return which of the values that a function returns are losses, by its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    if not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return ()
    definition = tree.body[0]
    found: list[int] = []
    for node in ast.walk(definition):
        if isinstance(node, ast.Return) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            named = [k for k, part in enumerate(parts) if _LOSS.search(ast.unparse(part))]
            if not named and len(parts) == 1 and _LOSS.search(definition.name):
                named = [0]
            found += named
    return tuple(dict.fromkeys(found))


if TYPE_CHECKING:
    from whynan.adapters.tensorflow.watch import Watch


def install(watch: "Watch") -> None:
    """Look at the numbers that eager tensors are read as."""
    for name in ("__float__", "numpy"):
        watch.patches.replace(ops._EagerTensorBase, name, lambda original: _reading(original, watch))


def _reading(original: Any, watch: "Watch") -> Any:
    def read(tensor: Any) -> Any:
        value = original(tensor)
        if isinstance(value, (float, np.floating)) and _is_of_interest(float(value), watch, sys._getframe(1)):
            if watch.attempt is not None:
                watch.attempt.on_loss(tensor)
            else:
                watch.on_validation(None)
        return value

    read.__doc__, read.__wrapped__ = original.__doc__, original  # type: ignore[attr-defined]
    return read


def _is_of_interest(value: float, watch: "Watch", frame: FrameType) -> bool:
    """Whether a number that was read is a loss to be looked at: in a replay each, in the run one that is not finite."""
    if watch.attempt is not None:
        return watch.attempt.stops_at_loss and speaks_of_loss(frame)
    return watch.is_enabled and not watch.depth and is_bad_loss(value, frame)
