"""The arrays of a sample with their names, and whether each is input or target."""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DEPTH = 5
_TARGET = re.compile(
    r"(^|[._])(y|t|targets?|labels?|lbls?|masks?|boxes|bbox(es)?|gt|truth|classes|class|category_id|area|iscrowd|keypoints|segmentation)\d*$",
    re.IGNORECASE,
)
_SKIPPED = re.compile(
    r"(^|[._])(image_id|img_id|id|idx|index|path|file_name|filename|size|orig_size|area|iscrowd|num_.*|.*_len(gth)?s?)$",
    re.I,
)


@dataclass(frozen=True)
class Leaf:
    """One array of a sample. `box_format` is what the object itself says (torchvision's BoundingBoxes)."""

    name: str
    values: Any
    is_target: bool
    box_format: str | None = None


def leaves(sample: Any) -> Iterator[Leaf]:
    """Yield the arrays of a sample. In a pair the first is the input; in a mapping the names decide."""
    if isinstance(sample, (tuple, list)) and sample and not _is_numbers(sample):
        for place, part in enumerate(sample):
            name = "input" if place == 0 else "target" if len(sample) == 2 else f"target{place}"
            yield from _walk(name, part, place > 0, DEPTH)
    elif isinstance(sample, Mapping):
        for key, part in sample.items():
            yield from _walk(str(key), part, None, DEPTH)
    else:
        yield from _walk("input", sample, False, DEPTH)


def _walk(name: str, value: Any, is_target: bool | None, depth: int) -> Iterator[Leaf]:
    if _SKIPPED.search(name):
        return
    array = to_numpy(value)
    if array is not None:
        role = bool(_TARGET.search(name)) if is_target is None else is_target
        format_ = getattr(getattr(value, "format", None), "value", None)
        yield Leaf(name, array, role, str(format_).lower() if isinstance(format_, str) else None)
    elif depth and isinstance(value, Mapping):
        for key, part in value.items():
            yield from _walk(f"{name}.{key}", part, is_target, depth - 1)
    elif depth and isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from _walk(f"{name}.{place}", part, is_target, depth - 1)


def to_numpy(value: Any) -> Any | None:
    """Return a number, tensor, picture or list of numbers as an array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biufc" else None
    if isinstance(value, (bool, int, float, np.generic)):
        array = np.asarray(value)
        return array if array.dtype.kind in "biufc" else None
    if isinstance(value, (str, bytes)) or value is None:
        return None
    for convert in (_from_torch, _from_method, _from_pillow, _from_numbers):
        array = convert(value)
        if array is not None and array.dtype.kind in "biufc":
            return array
    return None


def _from_torch(value: Any) -> Any | None:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    plain = value.detach().cpu()
    if plain.is_sparse:
        plain = plain.to_dense()
    return plain.float().numpy() if plain.dtype == torch.bfloat16 else plain.as_subclass(torch.Tensor).numpy()


def _from_method(value: Any) -> Any | None:
    for name in ("numpy", "asnumpy"):  # TensorFlow; MindSpore
        method = getattr(value, name, None)
        if callable(method):
            try:
                made = method()
            except Exception:
                continue
            return made if isinstance(made, np.ndarray) else np.asarray(made)
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        return np.asarray(value)
    return None


def _from_pillow(value: Any) -> Any | None:
    return np.asarray(value) if type(value).__module__.split(".")[0] == "PIL" and hasattr(value, "getbands") else None


def _from_numbers(value: Any) -> Any | None:
    return np.asarray(value) if isinstance(value, (list, tuple)) and value and _is_numbers(value) else None


def _is_numbers(values: Any) -> bool:
    return all(isinstance(each, (bool, int, float, np.generic)) for each in values)
