"""A replay on one rank: what would wait for the other ranks is answered from this rank's own values.

`DistributedDataParallel` neither sends gradients nor buffers; the collectives that the program calls itself return as
if every rank had given what this one gives. The ranks come out of a replay having sent nothing.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.utils._pytree import tree_leaves

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.ranks.gathered import Functional, Gathered

_Group = dist.ProcessGroup


class Alone:
    """While entered, this rank runs by itself. `modules` are the wrapped models, `gathered` what the others gave."""

    def __init__(
        self,
        modules: Iterable[Any],
        on_answer: Callable[[Any], None] = lambda tensor: None,
        gathered: Gathered | None = None,
        is_sharded: bool = False,
    ) -> None:
        self.modules = list(modules)
        self.gathered = gathered
        self.is_sharded = is_sharded
        self.on_answer = on_answer
        """Told of each tensor that other ranks' values should have gone into."""
        self._stack = ExitStack()

    def __enter__(self) -> "Alone":
        patches = Patches()
        self._stack.callback(patches.undo)
        for name, make in _ANSWERS.items():
            if hasattr(_Group, name):
                patches.replace(_Group, name, self._answering(name, make))
        patches.replace(Join, "notify_join_context", _nobody_is_told)
        if self.gathered is not None:
            self.gathered.begin()
        if self.is_sharded:
            self._stack.enter_context(Functional())
        for module in self.modules:
            for flag in ("require_backward_grad_sync", "require_forward_param_sync"):
                self._stack.callback(setattr, module, flag, getattr(module, flag))
                setattr(module, flag, False)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _answering(self, name: str, make: Callable[..., None]) -> Callable[[Any], Any]:
        def wrapper(original: Any) -> Any:
            def answered(group: Any, *args: Any, **kwargs: Any) -> _Done:
                with torch.no_grad():
                    if self.gathered is not None and self.gathered.answers(name, args[0]):
                        return _Done()
                    make(*args)
                for tensor in tree_leaves(args[:1]):
                    if isinstance(tensor, torch.Tensor):
                        self.on_answer(tensor)
                return _Done()

            return answered

        return wrapper


def _nobody_is_told(original: Any) -> Any:
    """Under `join()` a rank says in each step that it has inputs left: not in a replay."""
    return staticmethod(lambda joinable: None)


class _Done:
    """A collective that is over."""

    def wait(self, *args: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def result(self) -> list[Any]:
        return []

    def get_future(self) -> Any:
        future: Any = torch.futures.Future()
        future.set_result([])
        return future

    def block_current_stream(self) -> None:
        pass


def _same(*args: Any) -> None:
    """all_reduce of equal values by mean or maximum, broadcast, barrier: what is there stays."""


def _all_gather(outputs: Any, inputs: Any, *args: Any) -> None:
    for places, tensor in zip(outputs, inputs):
        for place in places:
            place.copy_(tensor)


def _all_gather_base(output: Any, tensor: Any, *args: Any) -> None:
    flat = output.reshape(-1)
    for start in range(0, flat.numel(), max(tensor.numel(), 1)):
        flat[start : start + tensor.numel()].copy_(tensor.reshape(-1))


def _reduce_scatter(outputs: Any, inputs: Any, *args: Any) -> None:
    for place, tensors in zip(outputs, inputs):
        place.copy_(tensors[dist.get_rank() % len(tensors)])


def _reduce_scatter_base(output: Any, tensor: Any, *args: Any) -> None:
    output.copy_(tensor.reshape(-1)[: output.numel()].reshape(output.shape))


def _scatter(outputs: Any, inputs: Any, *args: Any) -> None:
    for place, tensors in zip(outputs, inputs):
        if tensors:
            place.copy_(tensors[0])


def _all_to_all(outputs: Any, inputs: Any, *args: Any) -> None:
    for place, tensor in zip(outputs, inputs):
        place.copy_(tensor)


def _all_to_all_base(output: Any, tensor: Any, *args: Any) -> None:
    output.copy_(tensor.reshape(-1)[: output.numel()].reshape(output.shape))


_ANSWERS: dict[str, Callable[..., None]] = {
    "allreduce": _same,
    "allreduce_coalesced": _same,
    "broadcast": _same,
    "reduce": _same,
    "barrier": _same,
    "monitored_barrier": _same,
    "send": _same,
    "recv": _same,
    "allgather": _all_gather,
    "gather": _all_gather,
    "_allgather_base": _all_gather_base,
    "all_gather_single": _all_gather_base,  # newer names of the same
    "gather_single": _all_gather_base,
    "gather_into_tensor": _all_gather_base,
    "reduce_scatter_single": _reduce_scatter_base,
    "reduce_scatter": _reduce_scatter,
    "_reduce_scatter_base": _reduce_scatter_base,
    "scatter": _scatter,
    "alltoall": _all_to_all,
    "alltoall_base": _all_to_all_base,
    "all_to_all_single": _all_to_all_base,
}
