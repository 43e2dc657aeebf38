"""Cheap tests for non-finite values in many tensors at once."""

import math
from typing import Any

import torch

from whynan.watching.budget import Budget

_SMALL = 20_000
_SMALL_TOTAL = 32_768


class TensorGroup:
    """A list of tensors that is tested for non-finite values again and again.

    The norms of all tensors in one fused call: their sum of squares is the group's norm as well. Small tensors (biases,
    the weights of norms) are read every time, since what is wrong in a layer shows in its bias's gradient; large ones
    as often as the budget allows.
    """

    def __init__(self, share: float, free_s: float) -> None:
        self.budget = Budget(share, free_s=free_s)

    def wants_all(self, thorough: bool = False, due: bool | None = None) -> bool:
        """Whether the next check is to read all tensors; `due` says so where that is not for the budget to say."""
        return thorough or (self.budget.is_due() if due is None else due)

    def check(
        self,
        tensors: list[Any],
        small: list[Any] | None = None,
        thorough: bool = False,
        due: bool | None = None,
    ) -> tuple[bool, float | None]:
        """Return whether a non-finite value was found, and the norm over all tensors where all were read.

        `small` are the small ones among them, for a caller that knows; `thorough` reads all whatever it costs; `due`
        says whether all are read where that is not for the budget to say.
        """
        if not tensors:
            return False, 0.0
        if thorough:
            norm = _norm(tensors)
            return not math.isfinite(norm) and any_nonfinite(tensors), norm
        if self.budget.is_due() if due is None else due:
            self.budget.begin()
            norm = _norm(tensors)
            self.budget.end()
            return not math.isfinite(norm) and any_nonfinite(tensors), norm
        if small is None:
            small = smallest(tensors)
        return _any_suspect(small) and any_nonfinite(small), None


def _any_suspect(tensors: list[Any]) -> bool:
    """Whether the sum of squares over all elements is not finite: one pass over one copy, for small tensors."""
    if not tensors:
        return False
    try:
        norm = float(torch.linalg.vector_norm(torch._C._nn.flatten_dense_tensors(tensors)))
    except (RuntimeError, TypeError):  # they lie on several devices, or are of a dtype without norms
        norm = _norm(tensors)
    return not math.isfinite(norm)


def _norm(tensors: list[Any]) -> float:
    if not tensors:
        return 0.0
    norms: Any = torch._foreach_norm(tensors)
    return math.sqrt(math.fsum(min(n**2, 1e300) if math.isfinite(n) else n for n in torch.stack(norms).tolist()))


def any_nonfinite(tensors: list[Any]) -> bool:
    """Whether any element of any tensor is NaN or infinite; exact where a norm has merely overflowed."""
    return any(not bool(torch.isfinite(tensor).all()) for tensor in tensors)


def first_nonfinite(tensors: list[Any]) -> list[Any]:
    """Return the tensors which hold a non-finite element."""
    return [t for t in tensors if t is not None and not bool(torch.isfinite(t.detach()).all())]


def dense(tensors: Any) -> list[Any]:
    """Return the floating-point tensors that can be read as they are, sparse ones by their values.

    Not detached: the checks run without gradients, and detaching some hundred tensors a step costs more than a check.
    """
    found = []
    for tensor in tensors:
        if tensor is None or hasattr(tensor, "_local_tensor") or not tensor.dtype.is_floating_point:
            continue
        layout = tensor.layout
        if layout is torch.strided:
            found.append(tensor)
        elif layout is torch.sparse_coo:
            found.append(tensor.detach()._values())
    return found


def smallest(tensors: list[Any]) -> list[Any]:
    """Return the small ones among the tensors, in their order: as many as are read in no time, the smallest first."""
    total, found = 0, set()
    for tensor in sorted((t for t in tensors if not torch.nn.parameter.is_lazy(t)), key=lambda t: t.numel()):
        total += tensor.numel()
        if total > _SMALL_TOTAL or tensor.numel() > _SMALL:
            break
        found.add(id(tensor))
    return [tensor for tensor in tensors if id(tensor) in found]


class TrainedTensors:
    """An optimizer's dense parameters: the list is made once, and again when a group or a parameter is added."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[list[int], list[Any], list[Any]]] = {}

    def of(self, optimizer: Any) -> tuple[list[Any], list[Any]]:
        """Return all of them, and the small ones."""
        groups = [group["params"] for group in optimizer.param_groups]
        key = [n for params in groups for n in (id(params), len(params))]
        known = self._of.get(id(optimizer))
        if known is None or known[0] != key:
            parameters = dense(p for params in groups for p in params)
            known = (key, parameters, smallest(parameters))
            self._of[id(optimizer)] = known
        return known[1], known[2]
