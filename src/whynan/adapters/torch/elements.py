"""Non-finite values: cheap tests of many tensors at once; single elements, their address and their value."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from whynan.trace import Kind
from whynan.watching import Budget

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
        self.norms: list[float] = []
        """The norm of each tensor, where the last check has read all."""

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
            self.norms = []
            return False, 0.0
        if thorough:
            norm = self._norm(tensors)
            return not math.isfinite(norm) and any_nonfinite(tensors), norm
        if self.budget.is_due() if due is None else due:
            self.budget.begin()
            norm = self._norm(tensors)
            self.budget.end()
            return not math.isfinite(norm) and any_nonfinite(tensors), norm
        if small is None:
            small = smallest(tensors)
        return _any_suspect(small) and any_nonfinite(small), None

    def _norm(self, tensors: list[Any]) -> float:
        norms = torch._foreach_norm(tensors)
        try:
            self.norms = torch.stack(norms).tolist()
        except RuntimeError:  # they lie on several devices
            self.norms = [float(norm) for norm in norms]
        return math.sqrt(math.fsum(min(n**2, 1e300) if math.isfinite(n) else n for n in self.norms))


def _any_suspect(tensors: list[Any]) -> bool:
    """Whether the sum of squares over all elements is not finite: one pass over one copy, for small tensors."""
    if not tensors:
        return False
    try:
        norm = float(torch.linalg.vector_norm(torch._C._nn.flatten_dense_tensors(tensors)))
    except (RuntimeError, TypeError):  # they lie on several devices, or are of a dtype without norms
        return any_nonfinite(tensors)
    return not math.isfinite(norm)


def any_nonfinite(tensors: list[Any]) -> bool:
    """Whether any element of any tensor is NaN or infinite; exact where a norm has merely overflowed."""
    return any(not bool(torch.isfinite(tensor).all()) for tensor in tensors)


def first_nonfinite(tensors: list[Any]) -> list[Any]:
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


_N_IN_TURN = 8
_MOST_BETWEEN = 4


def in_turn(tensors: list[Any], step: int) -> list[Any]:
    """Return those whose turn it is: about eight a step, as more of them every few steps, since a look costs its call.

    What an update has spoilt stays so.
    """
    n_between = max(1, min(_MOST_BETWEEN, -(-len(tensors) // _N_IN_TURN)))
    if step % n_between:
        return []
    n_turns = max(1, -(-len(tensors) // (_N_IN_TURN * n_between)))
    return tensors[step // n_between % n_turns :: n_turns]


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
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None


def kind_at(tensor: Any, element: tuple[int, ...]) -> Kind | None:
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


def kind_in(tensor: Any) -> str:
    """Return "nan" where there is one, else the kind of the infinity."""
    flat = tensor.detach().reshape(-1)
    if bool(torch.isnan(flat).any()):
        return "nan"
    return "inf" if bool((flat == math.inf).any()) else "-inf"
