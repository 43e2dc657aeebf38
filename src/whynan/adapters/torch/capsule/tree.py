"""Nested batches as JSON with references to tensors."""

from typing import Any

import torch


class NoTreeError(TypeError):
    """A value that a capsule has no place for."""


def flatten(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    """Return `value` as JSON; its tensors go into `tensors`. Raises NoTreeError for objects of other kinds."""
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if type(value).__module__ == "numpy" and getattr(value, "dtype", None) is not None and value.dtype.kind in "fiub":
        tensors[name] = torch.as_tensor(value).clone()
        return {"array": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value if not isinstance(value, float) else value.hex()}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [flatten(item, f"{name}.{n}", tensors) for n, item in enumerate(value)]}
    if hasattr(value, "items") and all(isinstance(key, str) for key in value):
        return {"dict": {key: flatten(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    raise NoTreeError(f"{name} is a {type(value).__name__}")


def unflatten(tree: Any, tensors: dict[str, Any]) -> Any:
    """Return the value that `flatten` was given; a named tuple comes back as a tuple."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "array":
        return tensors[content].numpy().copy()
    if kind == "value":
        return float.fromhex(content) if isinstance(content, str) and _is_hex(content) else content
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in content.items()}
    items = [unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _is_hex(text: str) -> bool:
    return text.lstrip("-").startswith("0x") or text in ("nan", "inf", "-inf")
