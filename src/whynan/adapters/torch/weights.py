"""How large the parameters are, now and at the start: what tells a bad initialization from growth."""

import math
from typing import Any

import torch

from whynan.adapters.torch.checks import dense
from whynan.adapters.torch.snapshot import KnownState


class WeightScales:
    """Norms and gains of the parameters; `begin` keeps those of the first step."""

    def __init__(self, known: KnownState) -> None:
        self.known = known
        self.norm_start: tuple[float, float] | None = None
        self.norms_start: dict[int, float] = {}
        self.gains_start: list[tuple[str, float]] = []

    def begin(self) -> None:
        """Measure once, before the first update."""
        if self.norm_start is None:
            self.norm_start = self.weight_norms()
            self.norms_start = {id(p): float(p.detach().norm()) for p in self.known.parameters()}
            self.gains_start = self.gains()

    def gains(self) -> list[tuple[str, float]]:
        """Return (name, std * sqrt(fan_in)) of matrices and kernels, largest first; 1 keeps activations in scale."""
        names = self.known.parameter_names()
        tables = {id(m.weight) for root in self.known.modules.values() for m in root.modules() if _is_table(m)}
        found = []
        for parameter in self._readable():
            if parameter.dim() >= 2 and parameter.numel() > 1 and id(parameter) not in tables:
                fan_in = parameter.numel() // parameter.shape[0]
                gain = float(parameter.detach().float().std()) * math.sqrt(fan_in)
                found.append((names.get(id(parameter), "parameter"), gain))
        return sorted(found, key=lambda pair: -pair[1] if pair[1] == pair[1] else 0.0)

    def growth(self) -> list[tuple[str, float]]:
        """Return (name, norm now over norm at the start) of parameters, largest first."""
        names = self.known.parameter_names()
        found = []
        for parameter in self._readable():
            start = self.norms_start.get(id(parameter), 0.0)
            now = float(parameter.detach().norm())
            if start > 0 and math.isfinite(now):
                found.append((names.get(id(parameter), "parameter"), now / start))
        return sorted(found, key=lambda pair: -pair[1])

    def _readable(self) -> list[Any]:
        """Return the parameters that can be read without asking other processes."""
        parameters = self.known.parameters()
        return [] if self.known.is_sharded else parameters

    def weight_norms(self) -> tuple[float, float]:
        """Return the global L2 norm and the largest magnitude over all parameters."""
        tensors = [t.detach() for t in dense(self.known.parameters()) if t.numel()]
        if not tensors:
            return 0.0, 0.0
        norms = torch.stack([t.double().norm() for t in tensors])
        largest = max(float(t.abs().max()) for t in tensors)
        return float(norms.norm()), largest


def _is_table(module: Any) -> bool:
    return isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag))
