"""The size of what a layer gives, measured as an equation runs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_PRODUCTS = ("dot_general", "conv_general_dilated")


def layer_of(primitive: str, array: Any, inputs: Sequence[float | None]) -> tuple[str, float, float, float] | None:
    """Return kind, size, share of zeros and share at the ends of one operation's output; None for other operations."""
    kind = "Linear" if primitive in _PRODUCTS else {"tanh": "Tanh", "logistic": "Sigmoid"}.get(primitive)
    if primitive in ("max", "maximum") and 0.0 in inputs:
        kind = "ReLU"
    if kind is None or array is None or array.size < 2 or array.dtype.kind not in "fV":
        return None
    x = np.asarray(array, dtype=np.float64)
    with np.errstate(all="ignore"):
        rms = float(np.sqrt(np.mean(np.square(x))))
    if not math.isfinite(rms):
        return None
    low = -0.999 if kind == "Tanh" else 0.001
    ends = float(np.mean((x > 0.999) | (x < low))) if kind in ("Tanh", "Sigmoid") else 0.0
    return kind, rms, float(np.mean(x == 0)), ends
