"""Losses that nothing is trained with: what a `tf.function` without a tape returns, what a loss object gives.

What counts is what the script calls a loss. Metrics may be NaN for good reasons (a class that does not occur).
"""

import ast
import functools
import inspect
import re
import textwrap
from typing import Any

import tensorflow as tf

from whynan.adapters.common.arrays import all_finite, to_numpy

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
