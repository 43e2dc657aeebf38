"""States of metrics (torchmetrics): neither parameters nor buffers, and changed by every forward pass."""

import sys
from collections.abc import Iterable
from typing import Any


class MetricStates:
    """Copies of what metrics have summed up so far. Values that are no metrics are passed over."""

    def __init__(self, metrics: Iterable[Any]) -> None:
        torch = sys.modules["torch"]
        self.entries = []
        for metric in metrics:
            if not hasattr(metric, "_defaults"):
                continue
            values = {key: value for key, value in vars(metric).items() if not key.startswith("__")}
            copies = {
                key: value.clone() if isinstance(value, torch.Tensor) else list(value)
                for key, value in values.items()
                if isinstance(value, torch.Tensor) or (isinstance(value, list) and key in metric._defaults)
            }
            plain = {key: value for key, value in values.items() if isinstance(value, (int, float, bool, type(None)))}
            self.entries.append((metric, copies, plain))

    def restore(self) -> None:
        for metric, copies, plain in self.entries:
            vars(metric).update(plain)
            for key, copy in copies.items():
                vars(metric)[key] = list(copy) if isinstance(copy, list) else copy.clone()
