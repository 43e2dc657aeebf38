"""When PyTorch's own kernel may be used: the arguments are looked at and lie where it is exact.

Looking costs a pass over the data and waits for the device, so it is done for eager tensors on the CPU only. Elsewhere
(on an accelerator, under `torch.compile`, inside `torch.func` transforms) the formula is computed as it stands.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from whynan.formulas.backend import LIMITS, Limits
from whynan.torch.backend import NAMES

Function = TypeVar("Function", bound=Callable[..., Any])

WHOLE = (torch.float32, torch.float64)
PLAIN = (torch.Tensor, torch.nn.Parameter)


def documented(formula: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a function the documentation of the formula that it computes."""

    def decorate(function: Function) -> Function:
        function.__doc__ = formula.__doc__
        return function

    return decorate


def eager(*arrays: Any) -> bool:
    """Return whether the values of these can be looked at for little: floats on the CPU, not traced."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(
        type(x) in PLAIN and x.device.type == "cpu" and x.dtype in NAMES and x.layout is torch.strided for x in arrays
    )


def whole(*arrays: Any) -> bool:
    """Return `eager` for non-empty arrays of one dtype that is not a half: a composition of kernels rounds once
    each.
    """
    return eager(*arrays) and arrays[0].dtype in WHOLE and all(x.dtype == arrays[0].dtype and x.numel() for x in arrays)


def limits(x: Any) -> Limits:
    return LIMITS[NAMES[x.dtype]]


def least(x: Any) -> float:
    """Return the smallest element, NaN where there is no number to compare with."""
    return known(lambda: x.detach().amin().item()) if x.numel() else math.nan


def most(x: Any) -> float:
    return known(lambda: x.detach().amax().item()) if x.numel() else math.nan


def ends(x: Any) -> tuple[float, float]:
    """Return the smallest and the largest element."""
    if not x.numel():
        return math.nan, math.nan
    low, high = torch.aminmax(x.detach())
    return known(low.item), known(high.item)


def smallest(x: Any) -> float:
    """Return the smallest absolute value."""
    low, high = ends(x)
    if low > 0 or high < 0:
        return min(abs(low), abs(high))
    return least(x.detach().abs()) if x.numel() else math.nan


def largest(x: Any) -> float:
    """Return the largest absolute value, NaN where there is one."""
    low, high = ends(x)
    return max(-low, high) if low <= high else math.nan


def known(look: Callable[[], float]) -> float:
    try:
        return look()
    except RuntimeError:
        # Inside torch.vmap and while tracing there is no value to look at.
        return math.nan


def sound(x: Any) -> bool:
    """Return whether all elements are finite."""
    return math.isfinite(known(lambda: x.detach().sum().item())) if x.dim() else math.isfinite(known(x.item))


def number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
