"""What is known of a run as a whole: its history, and how large its weights are and were."""

import math
import sys
from collections.abc import Iterable
from typing import Any

from whynan.adapters.common.run import Run
from whynan.records import History

Sizes = dict[str, tuple[float, float, float]]
"""Of each weight its norm, its largest magnitude, and std * sqrt(fan_in) where it is a matrix (else 0)."""
_MAX_ELEMENTS = 50_000_000


def measure(weights: Iterable[tuple[str, Any]], is_out_first: bool = False) -> Sizes:
    """Return how large weights are; the dimensions of a kernel are (in, ..., out), or (out, in, ...)."""
    np = sys.modules["numpy"]
    found: Sizes = {}
    total = 0
    for name, weight in weights:
        total += weight.size
        if weight.size == 0 or total > _MAX_ELEMENTS:
            continue
        array = weight.astype(np.float64)
        fan_in = math.prod(array.shape[1:] if is_out_first else array.shape[:-1])
        with np.errstate(all="ignore"):
            gain = float(array.std()) * math.sqrt(fan_in) if array.ndim >= 2 and "embed" not in name.lower() else 0.0
            found[name] = (float(np.linalg.norm(array)), float(np.abs(array).max()), gain)
    return found


def history_of(run: Run, now: Sizes, first: Sizes) -> History:
    """Return the history as causes look at it; weights are those from before the failing step."""
    growth = {n: now[n][0] / first[n][0] for n in now if n in first and first[n][0] > 0 and math.isfinite(now[n][0])}
    gains = {name: gain for name, (_, _, gain) in first.items() if gain > 0 and math.isfinite(gain)}
    return History(
        loss=run.history.loss.values()[-4000:],
        grad_norm=run.history.grad_norm.values()[-4000:],
        lr=run.history.lr.values()[-4000:],
        weight_norm_start=_norm(first),
        weight_norm_now=_norm(now),
        weight_abs_max_start=max((m for _, m, _ in first.values()), default=None),
        weight_abs_max_now=max((m for _, m, _ in now.values() if math.isfinite(m)), default=None),
        largest_growth=_largest(growth),
        largest_gain_start=_largest(gains),
    )


def _norm(measured: Sizes) -> float | None:
    total = math.sqrt(sum(norm * norm for norm, _, _ in measured.values()))
    return total if measured and math.isfinite(total) else None


def _largest(values: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(values.items(), key=lambda item: -item[1])[:8])


def number_of(value: Any) -> float | None:
    """Return a setting of an optimizer's as a number, None where it is none."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
