"""A step of a sharded model on one rank alone: what the others sent is kept from an attempt that all ran in step.

`fully_shard` gathers each layer's parameters from all ranks and spreads its gradients over them. With the gathered
parameters at hand one rank can run its part of the step again as often as it likes, up to the update, and nobody has to
wait for it. Where ranks share the work of a layer (tensor parallel) its values are made of all ranks': none can.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.snapshot import MEMORY_BUDGET

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

_GATHERS = ("allgather", "_allgather_base", "all_gather_single", "broadcast")


class Gathered:
    """What each gather of one attempt returned, in their order."""

    def __init__(self) -> None:
        self.values: list[list[Any]] = []
        self.n_bytes = 0
        self._n_given = 0

    @property
    def is_whole(self) -> bool:
        """Whether everything was kept: there was room for it."""
        return 0 < self.n_bytes <= MEMORY_BUDGET

    def keep_from(self, patches: Patches) -> None:
        """Keep what gathers return from now on, until the patches are undone."""

        def wrapped(original: Any) -> Any:
            def gathered(group: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
                work = original(group, outputs, *args, **kwargs)
                if work is not None:
                    work.wait()
                self._keep(_tensors(outputs))
                return work

            return gathered

        for name in _GATHERS:
            if hasattr(dist.ProcessGroup, name):
                patches.replace(dist.ProcessGroup, name, wrapped)

    def _keep(self, tensors: list[Any]) -> None:
        self.n_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.n_bytes > MEMORY_BUDGET:
            self.values.clear()
        else:
            self.values.append([tensor.detach().clone() for tensor in tensors])

    def begin(self) -> None:
        """Answer from the first gather on."""
        self._n_given = 0

    def answers(self, name: str, outputs: Any) -> bool:
        """Fill in what the next gather returned; False for another kind of collective.

        Raises RuntimeError where the step asks for something else than it did.
        """
        if name not in _GATHERS:
            return False
        tensors = _tensors(outputs)
        kept = self.values[self._n_given] if self._n_given < len(self.values) else []
        if [tensor.shape for tensor in tensors] != [value.shape for value in kept]:
            raise RuntimeError("the step asks the other ranks for something else than it did")
        for tensor, value in zip(tensors, kept):
            tensor.copy_(value)
        self._n_given += 1
        return True


class Functional(TorchDispatchMode):  # type: ignore[misc]
    """Answers what tensors of shards ask the others for after the backward pass, as the norm of all gradients does.

    This rank's own parts stand for the others': numbers differ by that, and are as finite as these. Before the backward
    pass that would not do: RuntimeError.
    """

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # what it is made of comes here
        if func.namespace != "_c10d_functional" or func._opname == "wait_tensor":
            return func(*args, **(kwargs or {}))
        if torch.is_grad_enabled():
            raise RuntimeError(f"{func._opname} in the forward pass would wait for the other ranks")
        if func._opname == "all_gather_into_tensor":
            return torch.cat([args[0]] * args[1])
        return args[0].chunk(args[2])[0].clone() if func._opname == "reduce_scatter_tensor" else args[0].clone()


def why_not_alone(plan: "Plan", gathered: Gathered | None) -> str | None:
    """Return why one rank can't run its part of the step by itself; None where it can."""
    known = plan.host.known
    if not known.is_sharded:
        return "values that other ranks made are on the way to it"
    shards = [p for p in known.parameters() if hasattr(p, "_local_tensor")]
    covered = {id(p) for m in known.modules.values() for p in _of_fully_shard(m)}
    if any(id(p) not in covered or p.device_mesh.ndim > 1 for p in shards):
        return "ranks share the work of a layer, and none can run it by itself"
    if gathered is None or not gathered.is_whole:
        return f"the parameters of all ranks take more than {MEMORY_BUDGET / 2**20:.0f} MiB"
    if not all(bool(torch.isfinite(v).all()) for values in gathered.values for v in values if v.is_floating_point()):
        return "what the other ranks sent was non-finite itself"
    return None


def _of_fully_shard(module: Any) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [p for m in module.modules() if isinstance(m, FSDPModule) for p in m.parameters()]


def _tensors(outputs: Any) -> list[Any]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
