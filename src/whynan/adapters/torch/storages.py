"""Which op of a trace wrote a tensor's memory last, and which wrote something non-finite at an address of it.

Memory is known by its storage's address. What was freed may be given to another tensor, so each storage is followed by
a weak reference, and what is known of it is forgotten with it. As far as `KEPT_BYTES` reaches, tensors are kept alive
as well: the addresses that records speak of then stay theirs.
"""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from whynan.adapters.torch.elements import Region

KEPT_BYTES = 128 * 2**20
_SMALL = 4096


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
    """Return what a tensor's memory is known by."""
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
        """Whether something non-finite was written to the storage."""
        return key in self._writes and self.is_same(key)

    def is_same(self, key: int) -> bool:
        """Whether the storage is still the one that the trace has seen at this address."""
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
        """Return the op that wrote the tensor's storage last."""
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
