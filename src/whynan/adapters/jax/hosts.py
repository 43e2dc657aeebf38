"""One program on several hosts (`jax.distributed`): of arrays that lie on all of them each gets the whole, once.

The parts travel through the job's store, not through the devices, which may be busy with a step that waits for a
process that has stopped. With everything at hand each process runs the step again by itself.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from whynan.adapters.jax.closure import Call

_MAX_BYTES = 64 * 2**20
_CHUNK = 2**20
_WAIT_MS = 30_000


class Hosts:
    """This process among the others of its job."""

    def __init__(self) -> None:
        self.n_gathered = 0
        self._owners: dict[tuple[int, ...], Any] = {}

    @property
    def is_joint(self) -> bool:
        """Whether the processes have looked into a step together: the first one reports for all."""
        return self.n_gathered > 0

    @contextmanager
    def whole(self, call: "Call") -> Iterator[None]:
        """Let a call have whole arrays in the place of those on several hosts. Raises where that cannot be done."""
        before = call.leaves, call.outputs
        places = [(n, i) for n, leaves in enumerate(before) for i, leaf in enumerate(leaves) if _is_spread(leaf)]
        if not places:
            yield
            return
        spread = [before[n][i] for n, i in places]
        if sum(leaf.nbytes for leaf in spread) > _MAX_BYTES:
            raise RuntimeError(f"the step's arrays on all hosts take more than {_MAX_BYTES / 2**20:.0f} MiB")
        self.n_gathered += 1
        call.leaves, call.outputs = list(call.leaves), list(call.outputs)
        try:
            for (n, i), array in zip(places, self._exchanged(spread), strict=True):
                (call.leaves, call.outputs)[n][i] = array
            yield
        finally:
            call.leaves, call.outputs = before

    def _exchanged(self, spread: list[Any]) -> list[Any]:
        from jax._src import distributed

        client = distributed.global_state.client
        key = f"whynan/{self.n_gathered}"
        data = pickle.dumps([_parts(leaf) for leaf in spread])
        starts = range(0, len(data), _CHUNK)
        for n, start in enumerate(starts):
            client.key_value_set_bytes(f"{key}/{jax.process_index()}/{n}", data[start : start + _CHUNK])
        client.key_value_set_bytes(f"{key}/{jax.process_index()}", str(len(starts)).encode())
        wholes = [np.empty(leaf.shape, leaf.dtype) for leaf in spread]
        for rank in range(jax.process_count()):
            n_chunks = int(client.blocking_key_value_get_bytes(f"{key}/{rank}", _WAIT_MS))
            chunks = [client.blocking_key_value_get_bytes(f"{key}/{rank}/{n}", _WAIT_MS) for n in range(n_chunks)]
            # Written by the same program: the store is the one that its own processes trust.
            for whole, parts in zip(wholes, pickle.loads(b"".join(chunks)), strict=True):
                for index, part in parts:
                    whole[index] = part
        self._owners |= {leaf.shape: leaf.sharding for leaf in spread if leaf.ndim}
        return wholes

    def owner_of(self, shape: tuple[int, ...], row: int) -> int | None:
        """Return the process on whose devices a row of an array of this shape was."""
        sharding = self._owners.get(shape)
        for device, index in sharding.devices_indices_map(shape).items() if sharding is not None else ():
            if row in range(*index[0].indices(shape[0])):
                return int(device.process_index)
        return None


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and leaf.dtype.kind in "biufcV"


def _parts(leaf: Any) -> list[tuple[Any, Any]]:
    return [(shard.index, np.asarray(shard.data)) for shard in leaf.addressable_shards if shard.replica_id == 0]
