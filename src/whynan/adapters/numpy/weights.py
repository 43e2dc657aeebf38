"""The size of a NumPy loop's arrays, as an initialization is judged by it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_BYTES = 64 * 2**20
"""Larger arrays are data."""


@dataclass(frozen=True)
class Size:
    """An array's norm, its largest magnitude, and std * sqrt(fan_in) where it may be a weight matrix (else 0)."""

    norm: float
    largest: float
    gain: float


def measure(array: Any) -> Size:
    """Return the size of an array; the leading dimensions are those that come in."""
    with np.errstate(all="ignore"):
        gain = float(array.std()) * math.sqrt(math.prod(array.shape[:-1])) if array.ndim >= 2 else 0.0
        return Size(float(np.linalg.norm(array)), float(np.abs(array).max(initial=0.0)), gain)
