"""Facts about a tensor, measured without leaving a mark: no autograd node, no op in anybody's dispatch mode."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whynan.records.op import Role, TensorSummary

DISTINCT_LIMIT = 1 << 14
"""Distinct values need a sort; tensors with more elements than this get no count unless they are constant."""

_INT_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Run tensor code that neither the user's nor our own modes, subclasses and autograd get to see."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def summarize(tensor: Any, role: Role = "computed", name: str | None = None) -> TensorSummary:
    """Return the summary of a tensor of any dtype, layout and device, an array, or a number.

    A tensor without readable values (meta, fake, a wrapper that refuses) gets its shape and dtype only, with
    `extra["unread"]` saying why.
    """
    with torch._C.DisableTorchFunction():  # reading a shape is a torch function too
        shape, dtype = _form(tensor)
    try:
        with unseen():
            return _measure(_plain(tensor), shape, dtype, role, name)
    except Exception as error:
        return TensorSummary(shape, dtype, role=role, name=name, extra={"unread": f"{type(error).__name__}: {error}"})


def is_finite(value: Any) -> bool:
    """Tell whether a tensor, an array or a number holds finite values only; True for what holds no numbers."""
    try:
        with unseen():
            plain = _plain(value)
            if not (plain.is_floating_point() or plain.is_complex()):
                return True
            return bool(torch.isfinite(_workable(plain)).all())
    except Exception:
        return True


def dtype_name(dtype: Any) -> str:
    """Return a dtype's name without its framework: torch.float32 and numpy's float32 are both "float32"."""
    return str(dtype).removeprefix("torch.")


def _form(value: Any) -> tuple[tuple[int, ...], str]:
    if isinstance(value, (bool, int, float, complex)):
        return (), {bool: "bool", int: "int64", float: "float64", complex: "complex128"}.get(type(value), "float64")
    try:
        return tuple(int(size) for size in value.shape), dtype_name(value.dtype)
    except Exception:  # a nested tensor has no one shape
        return (), dtype_name(getattr(value, "dtype", type(value).__name__))


def _plain(value: Any) -> Any:
    """Return a dense, real-memory tensor with the same values."""
    if not isinstance(value, torch.Tensor):
        return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    tensor = value.detach()
    if hasattr(tensor, "to_local"):  # DTensor: this rank's shard
        tensor = tensor.to_local()
    if type(tensor) is not torch.Tensor and not hasattr(type(tensor), "__tensor_flatten__"):
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.is_nested:
        tensor = (
            tensor.values() if tensor.layout is torch.jagged else torch.cat([t.reshape(-1) for t in tensor.unbind()])
        )
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.layout is not torch.strided:
        return tensor.values() if tensor.layout is not torch._mkldnn else tensor.to_dense()
    return tensor.resolve_conj().resolve_neg()


def _workable(tensor: Any) -> Any:
    """Return the values in a dtype that has every operation used here."""
    if tensor.is_complex() or tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    if tensor.dtype in _INT_DTYPES:
        return tensor.to(torch.int64)
    return tensor.to(torch.float64)


def _measure(tensor: Any, shape: tuple[int, ...], dtype: str, role: Role, name: str | None) -> TensorSummary:
    if tensor.device.type == "meta":
        return TensorSummary(shape, dtype, role=role, name=name, extra={"unread": "meta tensor"})
    extra: dict[str, Any] = {}
    if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) != shape:
        extra["n_stored"] = tensor.numel()
    n_stored = tensor.numel()
    if n_stored == 0:
        return TensorSummary(shape, dtype, n_zero=_implicit_zeros(shape, extra), role=role, name=name, extra=extra)
    values = _workable(tensor)
    smallest, largest, nearest, counts = _ranges(values)
    n_nan, n_posinf, n_neginf, n_finite, n_nonzero, n_negative = counts
    n_implicit = _implicit_zeros(shape, extra)
    if n_implicit:
        smallest, largest = min(smallest, 0), max(largest, 0)
        n_finite, n_stored = n_finite + n_implicit, n_stored + n_implicit
    return TensorSummary(
        shape=shape,
        dtype=dtype,
        min=float(smallest) if n_finite else None,
        max=float(largest) if n_finite else None,
        abs_min_nonzero=float(nearest) if n_nonzero else None,
        n_zero=n_finite - n_nonzero,
        n_negative=n_negative,
        n_nan=n_nan,
        n_posinf=n_posinf,
        n_neginf=n_neginf,
        role=role,
        name=name,
        n_distinct=1 if n_finite == n_stored and smallest == largest else _distinct(values),
        extra=extra,
    )


def _ranges(values: Any) -> tuple[Any, Any, Any, list[int]]:
    """Return smallest, largest, smallest non-zero magnitude, and the counts, over the finite elements."""
    magnitude = values.abs()
    real = magnitude if values.is_complex() else values
    # A dtype's own extremes as filler: they come out again only where there is no finite (or no non-zero) element.
    top, low = _extremes(real.dtype)
    smallest, largest = torch.stack(torch.aminmax(real)).tolist()
    if math.isfinite(smallest) and math.isfinite(largest):  # the usual case; aminmax lets a NaN through
        nonzero = magnitude != 0
        nearest = torch.where(nonzero, magnitude, top).amin().item()
        n_nonzero, n_negative = torch.stack([nonzero.sum(), (real < 0).sum()]).tolist()
        return smallest, largest, nearest, [0, 0, 0, values.numel(), n_nonzero, n_negative]
    finite = torch.isfinite(values)
    nonzero = finite & (magnitude != 0)
    numbers = [
        torch.where(finite, real, top).amin(),
        torch.where(finite, real, low).amax(),
        torch.where(nonzero, magnitude, top).amin(),
    ]
    counts = [*_nonfinite_counts(values), finite.sum(), nonzero.sum(), (real < 0).sum()]
    smallest, largest, nearest = torch.stack(numbers).tolist()
    return smallest, largest, nearest, [int(n) for n in torch.stack(counts).tolist()]


def _implicit_zeros(shape: tuple[int, ...], extra: dict[str, Any]) -> int:
    """Elements that a sparse tensor does not store."""
    if "n_stored" not in extra:
        return 0
    n = 1
    for size in shape:
        n *= size
    return max(0, n - int(extra["n_stored"]))


def _nonfinite_counts(values: Any) -> tuple[Any, Any, Any]:
    nan = torch.isnan(values)
    if values.is_complex():
        return nan.sum(), (torch.isinf(values) & ~nan).sum(), nan.sum() * 0
    if values.is_floating_point():
        return nan.sum(), (values == torch.inf).sum(), (values == -torch.inf).sum()
    none = nan.sum() * 0
    return none, none, none


def _extremes(dtype: Any) -> tuple[float | int, float | int]:
    if dtype.is_floating_point:
        return float("inf"), float("-inf")
    info = torch.iinfo(dtype)
    return int(info.max), int(info.min)


def _distinct(values: Any) -> int | None:
    """Return how many distinct finite values there are, None where counting them would cost too much."""
    if values.is_complex() or values.numel() > DISTINCT_LIMIT:
        return None
    return int(torch.unique(values[torch.isfinite(values)]).numel())
