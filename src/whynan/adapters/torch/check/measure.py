"""Where an operation stands; the range of what a tensor held; which memory it lies in, as what."""

import linecache
import math
import os
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from whynan.check.graph import Measured, Place
from whynan.launch.host import is_user_file


def place_of(frame: Any) -> Place:
    """Return a frame's line as a place, with its source text."""
    return Place(frame.file, frame.line, frame.function, linecache.getline(frame.file, frame.line).strip())


def asking_place(frame: Any) -> Place | None:
    """Return the line that reads a number: the user's or a library's, and not the framework's own."""
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file) or ("site-packages" in file and _TORCH not in file):
            text = linecache.getline(file, frame.f_lineno).strip()
            return Place(file, frame.f_lineno, frame.f_code.co_name, text)
        frame = frame.f_back
    return None


def is_library(frame: Any) -> bool:
    """Whether an operation is the doing of an installed library on top of the framework, and not of the user's code."""
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            return False
        if _PARAMETRIZATIONS in file or _KERAS_LAYERS in file:
            return True
        if "site-packages" in file and _TORCH not in file and _KERAS not in file:
            return True
        frame = frame.f_back
    return False


_TORCH = f"site-packages{os.sep}torch{os.sep}"
_PARAMETRIZATIONS = f"{_TORCH}nn{os.sep}utils{os.sep}"
"""Spectral and weight normalisation: the library's own arithmetic, with its own care."""
_KERAS = f"site-packages{os.sep}keras{os.sep}"
"""Its operations are the framework's own under another name."""
_KERAS_LAYERS = f"{_KERAS}src{os.sep}layers{os.sep}"


def measure(tensor: Any) -> tuple[Measured | None, bool]:
    """Return the range of a tensor's finite elements, and whether it holds -inf."""
    if (
        tensor.numel() == 0
        or tensor.layout != torch.strided
        or tensor.is_meta
        or tensor.is_complex()
        or tensor.is_quantized
    ):
        return None, False
    x = tensor.detach()
    if x.dtype == torch.bool:
        x = x.to(torch.uint8)
    elif x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    lo, hi = (float(v) for v in torch.aminmax(x))
    n_bad, minus = 0, False
    if not (math.isfinite(lo) and math.isfinite(hi)):
        good = torch.isfinite(x)
        n_bad = int(x.numel() - int(good.sum()))
        minus = bool((x == -math.inf).any())
        if n_bad == x.numel():
            return Measured(0.0, 0.0, 0.0, n_bad), minus
        x = x[good]
        lo, hi = (float(v) for v in torch.aminmax(x))
    # Between values of both signs it matters whether 0 is among them; how near to it they come, where there are few.
    least = lo if lo > 0 else -hi if hi < 0 else _least(x)
    return Measured(lo, hi, least, n_bad), minus


def _least(x: Any) -> float:
    if x.numel() <= _FEW:
        return float(x.abs().min())
    return 0.0 if int(torch.count_nonzero(x)) < x.numel() else _NOT_ZERO


def is_finite(tensor: Any) -> bool:
    """Whether all elements are finite, in one pass that allocates nothing."""
    if tensor.is_complex():
        return bool(torch.isfinite(tensor).all())
    lo, hi = torch.aminmax(tensor)  # NaN among the elements comes out as NaN
    return math.isfinite(float(lo)) and math.isfinite(float(hi))


_FEW = 4096
_NOT_ZERO = 1e-30
"""Stands for the smallest of many absolute values, none of which is 0."""


def dtype_of(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def pointer_of(tensor: Any) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr()) or id(tensor)
    except Exception:
        return id(tensor)


def key_of(tensor: Any) -> tuple[Any, ...]:
    return (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def weak(tensor: Any) -> Any:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except Exception:
        return None


def is_expired(reference: Any) -> bool:
    return reference is not None and reference.expired()
