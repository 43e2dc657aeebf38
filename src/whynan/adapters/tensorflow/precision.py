"""Half precision that becomes float32 while a step is run again: layers of Keras', casts of the program's own."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import math_ops

from whynan.adapters.common.patches import Patches

_HALF = ("float16", "bfloat16")


@contextmanager
def in_float32() -> Iterator[tuple[Callable[[Any], Any], list[str]]]:
    """Compute in float32 what a step would compute in half precision.

    Yields what does so to a value, and the list of what was half precision. Weights that are so themselves stay so: a
    step with such weights ends with an exception.
    """
    patches = Patches()
    found: list[str] = []

    def is_half(dtype: Any) -> bool:
        found.extend(names := [name for name in [_name_of(dtype)] if name in _HALF])
        return bool(names)

    def cast(original: Any) -> Any:
        def in_full(x: Any, dtype: Any, name: Any = None) -> Any:
            return original(x, tf.float32 if is_half(dtype) else dtype, name=name)

        return in_full

    def widened(value: Any) -> Any:
        return tf.cast(value, tf.float32) if is_half(getattr(value, "dtype", None)) else value

    for owner in (tf, tf.dtypes, math_ops):
        patches.replace(owner, "cast", cast)
    policies = sys.modules.get("keras.src.dtype_policies.dtype_policy")
    kind: Any = getattr(policies, "DTypePolicy", None)
    known = vars(kind).get("compute_dtype") if kind is not None else None
    try:
        if known is not None:
            kind.compute_dtype = property(lambda own: "float32" if is_half(name := known.fget(own)) else name)
        yield widened, found
    finally:
        if known is not None:
            kind.compute_dtype = known
        patches.undo()


def _name_of(dtype: Any) -> str | None:
    try:
        return str(tf.as_dtype(dtype).name) if dtype is not None else None
    except TypeError:
        return None
