"""Which op of a trace wrote a tensor's memory last, which wrote something non-finite there, and from which elements.

Memory is known by its storage's address. What was freed may be given to another tensor, so each storage is followed by
a weak reference, and what is known of it is forgotten with it. As far as `KEPT_BYTES` reaches, tensors are kept alive
as well: the addresses that records speak of then stay theirs.

The walk from a symptom must not leave its own elements: a mask's -inf beside the NaN is innocent. Ops are known by kind
(pointwise, reductions, products, joins); for all others every non-finite element of the input counts.
"""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from whynan.adapters.common.arrays import broadcast_element
from whynan.adapters.torch.elements import Region, is_nonfinite, kind_at, nonfinite_elements

KEPT_BYTES = 128 * 2**20
_SMALL = 4096
_SAME_ROW = {
    "_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "sort",
    "_safe_softmax",
    "_softmax_backward_data",
    "_log_softmax_backward_data",
}
_REDUCTIONS = {
    "sum",
    "mean",
    "amax",
    "amin",
    "prod",
    "logsumexp",
    "var",
    "std",
    "linalg_vector_norm",
    "norm",
    "max",
    "min",
}
_POINTWISE = {
    "where",
    "masked_fill",
    "masked_fill_",
    "clone",
    "_to_copy",
    "copy_",
    "to",
    "lerp_",
    "lerp",
    "threshold_backward",
}
_POINTWISE |= {
    "contiguous",
    "alias",
    "native_dropout",
    "native_dropout_backward",
    "addcdiv_",
    "addcmul_",
    "add",
    "mul",
    "div",
}
_MAX = 6
Place = tuple[int, ...]


def is_watched(tensor: Any) -> bool:
    """Whether a tensor's values are looked at: floating point or complex, dense, with storage."""
    return (
        isinstance(tensor, torch.Tensor)
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.layout == torch.strided
        and not tensor.is_meta
        and not tensor.is_quantized
    )


def values_of(tensor: Any) -> Any:
    """Return a sparse tensor's values; they are what is written and read; of a sharded one this rank's part.

    Any other tensor as it is.
    """
    if hasattr(tensor, "_local_tensor"):  # to detach the whole may already wait for the other ranks
        return tensor._local_tensor.detach()
    return tensor.detach()._values() if tensor.layout == torch.sparse_coo else tensor


def key_of(tensor: Any) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr()) or id(tensor)
    except Exception:  # no storage: sparse, functorch wrappers
        return id(tensor)


class Storages:
    """Who wrote what. `last_writer` knows of every op, `find` of those whose output was non-finite."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.last_writer: dict[int, int] = {}
        self.n_kept = 0
        self._left = kept_bytes
        self._writes: dict[int, list[tuple[int, Region]]] = {}
        self._alive: dict[int, StorageWeakRef] = {}
        self._kept: dict[int, Any] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._writes and self.is_same(key)

    def is_same(self, key: int) -> bool:
        alive = self._alive.get(key)
        if alive is None or not alive.expired():
            return True
        self.forget(key)
        return False

    def forget(self, key: int) -> None:
        self._writes.pop(key, None)
        self.last_writer.pop(key, None)
        self._alive.pop(key, None)

    def begin(self, tensor: Any, key: int) -> None:
        """A tensor of new memory: whatever was at this address is gone."""
        self.forget(key)
        if is_watched(tensor):
            self._follow(tensor, key)
            if tensor.numel() <= _SMALL:
                self._keep(tensor, key)

    def wrote(self, key: int, index: int) -> None:
        self.last_writer[key] = index

    def wrote_nonfinite(self, tensor: Any, index: int) -> None:
        key = key_of(tensor)
        self._writes.setdefault(key, []).append((index, Region.of(tensor)))
        if key not in self._alive:
            self._follow(tensor, key)
        self._keep(tensor, key)

    def writer(self, tensor: Any) -> int | None:
        key = key_of(tensor)
        return self.last_writer.get(key) if self.is_same(key) else None

    def find(self, tensor: Any, address: int) -> int | None:
        """Return the last op that wrote something non-finite over this address of the tensor's storage."""
        key = key_of(tensor)
        if key in self:
            for index, region in reversed(self._writes[key]):
                if region.holds(address):
                    return index
        return None

    def last_nonfinite(self, tensor: Any) -> int | None:
        key = key_of(tensor)
        return self._writes[key][-1][0] if key in self else None

    def _follow(self, tensor: Any, key: int) -> None:
        try:
            self._alive[key] = StorageWeakRef(tensor.untyped_storage())
        except Exception:  # no storage; the tensor itself is then kept
            self._kept[key] = tensor

    def _keep(self, tensor: Any, key: int) -> None:
        n_bytes = int(tensor.untyped_storage().nbytes()) if key not in self._kept else 0
        if key not in self._kept and n_bytes <= self._left:
            self._left -= n_bytes
            self._kept[key] = tensor.untyped_storage()  # not the tensor: that autograd would then have to copy
            self.n_kept += 1


def relevant_elements(
    func: Any, name: str, args: Any, kwargs: Any, tensor: Any, value: Any, position: int, out: Any, element: Place
) -> list[Place] | None:
    """Return up to a few elements of an input `value` that bear on the output's `element`; None if all of them may."""
    try:
        return _relevant(func, name, args, kwargs, tensor, value, position, out, element)
    except (IndexError, TypeError, ValueError, RuntimeError):
        return None  # an overload with other arguments


def _relevant(
    func: Any, name: str, args: Any, kwargs: Any, tensor: Any, value: Any, position: int, out: Any, element: Place
) -> list[Place] | None:
    if torch.Tag.pointwise in func.tags or name in _POINTWISE or _is_pointwise_list(name):
        return _same_place(value, element)
    if name in ("cat", "stack") and args and isinstance(args[0], (list, tuple)):
        return _joined(args, name, tensor, value, [element])
    if name in ("mm", "bmm", "addmm", "baddbmm") and value.dim() >= 2:
        return _product(name, tensor, value, args, [element])
    if name in _SAME_ROW and value.shape == out.shape:
        return _lines(value, [element], {_dim(argument(func, args, kwargs, "dim"), value.dim())})
    if name in _REDUCTIONS and value.dim() > 0 and position == 0:
        return _reduced(args[1:] if "norm" in name else args, value, out, [element])
    return None


def argument(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    for position, known in enumerate(func._schema.arguments):
        if known.name == name:
            if known.name in kwargs:
                return kwargs[known.name]
            return args[position] if position < len(args) and not known.kwarg_only else known.default_value
    raise IndexError(name)


def aligned(name: str, args: Any, outputs: list[Any], inputs: list[Any], out: Any) -> list[Any]:
    """Return the inputs that an output can depend on: ops over lists of tensors compute item by item."""
    if not _is_over_lists(name):
        return inputs
    lists = [arg for arg in args if isinstance(arg, (list, tuple))]
    number = next((n for items in [*lists, outputs] for n, item in enumerate(items) if item is out), None)
    if number is None:
        return inputs
    others = {id(item) for items in lists for n, item in enumerate(items) if n != number}
    others -= {id(items[number]) for items in lists if number < len(items)}
    return [tensor for tensor in inputs if id(tensor) not in others]


def _is_over_lists(name: str) -> bool:
    return name.startswith(("_foreach_", "_fused_"))


def _is_pointwise_list(name: str) -> bool:
    return _is_over_lists(name) and "norm" not in name and "max" not in name


def _same_place(value: Any, element: Place) -> list[Place] | None:
    if value.numel() == 1:
        return [(0,) * value.dim()]
    place = broadcast_element(element, value.shape)
    if place is None:
        return None
    return [place] if kind_at(value, place) is not None else []


def _joined(args: Any, name: str, tensor: Any, value: Any, elements: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    parts = list(args[0])
    which = next((i for i, part in enumerate(parts) if part is tensor), 0)
    dim = args[1] if len(args) > 1 else 0
    found = []
    for element in elements[:_MAX]:
        if name == "stack":
            dim = dim % len(element)
            if element[dim] == which:
                found.append(element[:dim] + element[dim + 1 :])
            continue
        dim = dim % len(element)
        start = sum(part.shape[dim] for part in parts[:which] if part.dim() == len(element))
        if value.dim() == len(element) and start <= element[dim] < start + value.shape[dim]:
            found.append((*element[:dim], element[dim] - start, *element[dim + 1 :]))
    return [place for place in found if kind_at(value, place) is not None]


def _product(name: str, tensor: Any, value: Any, args: Any, elements: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The row of the left factor, the column of the right one."""
    left, right = (args[0], args[1]) if name in ("mm", "bmm") else (args[1], args[2])
    for element in elements[:2]:
        if tensor is left and value.shape[-2] > element[-2]:
            line = value[(*element[:-2], element[-2])] if value.dim() == len(element) else value[element[-2]]
            return [(*element[: value.dim() - 2], element[-2], place) for place in _some_in(line)]
        elif tensor is right and value.shape[-1] > element[-1]:
            line = value[(*element[:-2], slice(None), element[-1])] if value.dim() > 2 else value[:, element[-1]]
            return [(*element[: value.dim() - 2], place, element[-1]) for place in _some_in(line)]
        elif tensor is not left and tensor is not right:
            return _same_place(value, element) or []
    return []


def _some_in(line: Any) -> list[int]:
    return [place for (place,) in nonfinite_elements(line, _MAX)[0]] if is_nonfinite(line) else []


def _lines(value: Any, elements: list[tuple[int, ...]], dims: set[int]) -> list[tuple[int, ...]]:
    """Non-finite elements of `value` on the lines through `elements` along `dims`."""
    found: list[tuple[int, ...]] = []
    for element in elements[:2]:
        index = tuple(slice(None) if dim in dims else i for dim, i in enumerate(element))
        part = value[index]
        if part.dim() == 0:
            places: list[tuple[int, ...]] = [()] if kind_at(part, ()) else []
        elif bool(torch.isfinite(part).all()):
            places = []
        else:
            places = nonfinite_elements(part, _MAX)[0]
        for place in places:
            rest = iter(place)
            found.append(tuple(next(rest) if dim in dims else i for dim, i in enumerate(element)))
    return list(dict.fromkeys(found))[:_MAX]


def _reduced(args: Any, value: Any, out: Any, elements: list[Place]) -> list[Place] | None:
    dims = _dims(args, value.dim())
    if out.dim() == 0 or dims is None:
        return None
    if out.dim() == value.dim():
        wide = [tuple(i for i in element) for element in elements]
    elif out.dim() == value.dim() - len(dims):
        wide = []
        for element in elements:
            rest = iter(element)
            wide.append(tuple(0 if dim in dims else next(rest) for dim in range(value.dim())))
    else:
        return None
    return _lines(value, wide, dims)


def _dims(args: Any, n: int) -> set[int] | None:
    for arg in args[1:4]:
        if isinstance(arg, int) and not isinstance(arg, bool):
            return {arg % n}
        if isinstance(arg, (list, tuple)) and arg and all(isinstance(item, int) for item in arg):
            return {item % n for item in arg}
    return None


def _dim(arg: Any, n: int) -> int:
    return int(arg) % n if n else 0
