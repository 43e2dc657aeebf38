"""The layers of a model by name, for what is shown layer by layer over the last steps."""

from collections.abc import Iterator
from typing import Any


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
