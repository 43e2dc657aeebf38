"""Which memory a tensor lies in, as what, and whether it is still there."""

from typing import Any

from torch.multiprocessing.reductions import StorageWeakRef


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
