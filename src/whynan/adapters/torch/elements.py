"""Single elements of tensors: which are non-finite, at which address they stand, what stands there."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from whynan.trace.graph import Kind

_FEW = 8
_COUNT_LIMIT = 200_000


@dataclass(frozen=True)
class Region:
    """The addresses of a tensor's elements, in real numbers of its storage: a complex element has two.

    `steps` are (stride, size), widest first.
    """

    low: int
    steps: tuple[tuple[int, int], ...]

    @staticmethod
    def of(tensor: Any) -> "Region":
        steps = [(stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if stride > 0 and size > 1]
        if tensor.is_complex():  # its parts are seen by themselves too, as real numbers
            steps = [*((2 * stride, size) for stride, size in steps), (1, 2)]
        return Region(_reals(tensor) * tensor.storage_offset(), tuple(sorted(steps, reverse=True)))

    def holds(self, address: int) -> bool:
        """Exact where the tensor's elements don't overlap: then each address has one index, found stride by stride."""
        rest = address - self.low
        if rest < 0:
            return False
        for stride, size in self.steps:
            rest -= min(rest // stride, size - 1) * stride
        return rest == 0


def is_nonfinite(tensor: Any) -> bool:
    """Whether any element is NaN or infinite. One pass for a finite tensor: its sum is finite."""
    tensor = tensor.detach()
    if tensor.numel() == 0:
        return False
    wide = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    elif tensor.dtype.itemsize == 1:
        tensor, wide = tensor.float(), None
    total = float(tensor.sum(dtype=wide))
    if math.isfinite(total):
        return False
    return not bool(torch.isfinite(tensor).all())


def nonfinite_elements(tensor: Any, n: int = _FEW) -> tuple[list[tuple[int, ...]], Kind]:
    """Return up to `n` indices of non-finite elements, NaN before infinities, and the kind of the first."""
    flat = _real(tensor.detach()).reshape(-1)
    nan = torch.isnan(flat)
    mask = nan if bool(nan.any()) else torch.isinf(flat)
    if flat.numel() <= _COUNT_LIMIT:
        found = mask.nonzero()[:, 0]
        spread = sorted({0, *(len(found) * k // n for k in range(n))})
        picked = [int(found[k]) for k in spread if k < len(found)]
    else:
        first = int(mask.to(torch.uint8).argmax())
        probes = torch.linspace(0, flat.numel() - 1, 256, device=flat.device).long()
        others = probes[mask[probes]].tolist()
        picked = sorted({first, *others})[:n]
    value = float(flat[picked[0]].to(torch.float64))
    return [_unravel(index, tensor.shape) for index in picked], kind_of(value)  # type: ignore[return-value]


def sampled_elements(tensor: Any) -> list[tuple[tuple[int, ...], Kind]]:
    """Return a few non-finite elements with what stands there: NaN first, and infinities beside them."""
    elements, kind = nonfinite_elements(tensor)
    found = [(element, kind if kind == "nan" else kind_at(tensor, element) or kind) for element in elements]
    if kind == "nan":
        infinite = torch.isinf(_real(tensor.detach()).reshape(-1))
        if bool(infinite.any()):
            others = {
                int(infinite.to(torch.uint8).argmax()),
                len(infinite) - 1 - int(infinite.flip(0).to(torch.uint8).argmax()),
            }
            places = [_unravel(index, tensor.shape) for index in sorted(others)]
            found += [(place, kind_at(tensor, place) or "inf") for place in places]
    return found


def kind_of(value: float) -> Kind | None:
    """Return what kind of non-finite a number is; None for a finite one."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None


def kind_at(tensor: Any, element: tuple[int, ...]) -> Kind | None:
    """Return what kind of non-finite stands at one element; None where it is finite."""
    value = tensor.detach()[element] if element else tensor.detach().reshape(-1)[0]
    if value.is_complex():
        value = value.real + value.imag
    return kind_of(float(value.to(torch.float64)))


def element_address(tensor: Any, element: tuple[int, ...]) -> int:
    """Return the address of one element in its storage, in real numbers."""
    within = sum(i * stride for i, stride in zip(element, tensor.stride()))
    return _reals(tensor) * int(tensor.storage_offset() + within)


def _reals(tensor: Any) -> int:
    return 2 if tensor.is_complex() else 1


def _real(tensor: Any) -> Any:
    if tensor.is_complex():
        tensor = tensor.resolve_conj()
        return tensor.real + tensor.imag
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor


def _unravel(index: int, shape: Any) -> tuple[int, ...]:
    result = []
    for size in reversed(shape):
        result.append(index % size)
        index //= size
    return tuple(reversed(result))
