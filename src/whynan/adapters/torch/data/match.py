"""Which of the batches drawn lately is in hand: trainers draw ahead (Accelerate one, Transformers an update's)."""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from whynan.adapters.common.data.origin import alone
from whynan.adapters.torch.data import loader, streams
from whynan.adapters.torch.data.loader import BatchOrigin
from whynan.adapters.torch.data.refetch import _fetch, _start_streams

_AHEAD = ("accelerate", "transformers", "lightning", "pytorch_lightning", "lightning_fabric", "ray.train")
_MOST = 8
"""Batches before the latest that are compared."""


def draws_ahead() -> bool:
    """Whether a package that draws batches before it hands them over has been imported."""
    return any(name in sys.modules for name in _AHEAD)


def matching(batch: Any, size: int | None) -> BatchOrigin | None:
    """Return the origin whose samples, fetched again, are those of `batch`; None where that cannot be told."""
    rows = list(_tensors(batch))
    for back in range(_MOST):
        candidates = [c for c in loader.recent(back) if c.indices and len(c.indices) == size]
        for candidate in candidates:
            if rows and _is_it(candidate, rows):
                return candidate
    return None


def _is_it(origin: BatchOrigin, rows: list[Any]) -> bool:
    """Whether the first and the last sample are found in the batch, each at its own place."""
    try:
        with alone(streams.preserved()):
            _start_streams(origin)
            samples = [_fetch(origin.dataset, index) for index in origin.indices]
    except Exception:
        return False
    compared = 0
    for position, sample in enumerate(samples):
        for part in _tensors(sample):
            if part.numel() == 0:
                continue
            compared += 1
            if not any(_same(part, row, position, len(samples)) for row in rows):
                return False
    return compared > 0


def _same(part: Any, row: Any, position: int, size: int) -> bool:
    if row.dim() == 0 or row.shape[0] != size:
        return False
    one = row[position].detach().reshape(-1).cpu().double()
    flat = part.detach().reshape(-1).cpu().double()
    # A collate function may pad: what the sample has comes first then.
    return bool(len(one) >= len(flat) and torch.allclose(one[: len(flat)], flat, rtol=1e-3, atol=0, equal_nan=True))


def _tensors(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the numbers in a sample or a batch as tensors."""
    if isinstance(value, torch.Tensor):
        if not value.is_complex():
            yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield torch.tensor(float(value))
    elif type(value).__module__ == "numpy" and getattr(value, "dtype", None) is not None and value.dtype.kind in "fiu":
        yield torch.as_tensor(value)
    elif hasattr(value, "items") and depth < 3:
        for item in value.values():
            yield from _tensors(item, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 3:
        numbers = [item for item in value if isinstance(item, (int, float))]
        if value and len(numbers) == len(value):
            yield torch.tensor([float(item) for item in numbers])
        else:
            for item in value:
                yield from _tensors(item, depth + 1)
