"""The layers of a model by name, for what is shown layer by layer over the last steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_STEPS = 64
_MOST_LAYERS = 40


def layers_of(roots: dict[str, Any]) -> dict[str, Any]:
    """Return the modules with parameters of their own, by their dotted names, in the model's order."""
    found: dict[str, Any] = {}
    for root in roots.values():
        for path, module in root.named_modules():
            if any(True for _ in own(module)):
                found.setdefault(path or type(module).__name__, module)
    return found


def own(module: Any) -> Iterator[Any]:
    """Yield a module's own trained parameters, not those of modules inside it."""
    return (p for p in module._parameters.values() if p is not None and p.requires_grad)


def most_telling(names: list[str], norms: Sequence[Mapping[str, float]]) -> list[str]:
    """Return at most `_MOST_LAYERS` layers in their order: those with the largest gradients in the last steps."""
    if len(names) <= _MOST_LAYERS:
        return names

    def weight(name: str) -> float:
        values = [row[name] for row in norms[-8:] if name in row]
        return max((v if math.isfinite(v) else math.inf for v in values), default=0.0)

    kept = set(sorted(names, key=weight, reverse=True)[:_MOST_LAYERS])
    return [name for name in names if name in kept]
