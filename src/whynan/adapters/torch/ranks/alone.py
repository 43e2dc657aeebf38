"""The processes of a job that are watched together; a replay on one rank, which sends nothing to the others.

Of a job: who is there, a flag that all share, and a place to leave messages. Nothing here is registered with
`torch.distributed`: the group of processes and the store are our own, beside the program's, so that names, counts and
order of its groups stay what they are without us. `Single` is where there is none.

In a replay, what would wait for other ranks is answered from kept values, or from this rank's own. `fully_shard`
gathers each layer's parameters from all ranks and spreads its gradients over them. With the gathered parameters at hand
one rank can run its part of the step again as often as it likes, up to the update. Where ranks share the work of a
layer (tensor parallel) its values are made of all ranks': none can. `DistributedDataParallel` neither sends gradients
nor buffers; the collectives that the program calls itself return as if every rank had given what this one gives.
"""

import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.snapshot import MEMORY_BUDGET
from whynan.launch.host import tell
from whynan.report import write_safely

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

_ROLL_CALL_S = 30.0
"""How long rank 0 waits for the others to say that they are watched, too."""
_SLACK_S = 5.0
MOST_RANKS = 512
"""Each rank is connected with each other one: beyond this, connections and the way of a flag become too long."""
_GATHERS = ("allgather", "_allgather_base", "all_gather_single", "broadcast")


class Job:
    """This process's connection to the others. Raises RuntimeError where it cannot be made."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        if self.size > MOST_RANKS:
            raise RuntimeError(f"{self.size} ranks are more than the {MOST_RANKS} that decide together")
        self.store = dist.PrefixStore("whynan", dist.distributed_c10d._get_default_store())
        self.absent = self._roll_call()
        if self.absent:
            raise RuntimeError(self.absent)
        group = dist.PrefixStore("flags", self.store)
        self.group = dist.ProcessGroupGloo(group, self.rank, self.size, timedelta(minutes=30))

    def _roll_call(self) -> str:
        """Return why there is no common verdict, "" where all are watched. Rank 0 decides, for all the same."""
        self.store.set(f"here/{self.rank}", b"1")
        if self.rank == 0:
            missing = [rank for rank in range(self.size) if not self._is_set(f"here/{rank}", _ROLL_CALL_S)]
            text = f"rank {missing[0]} of {self.size} is not run by whynan" if missing else ""
            self.store.set("roll-call", text.encode() or b"-")
            return text
        if not self._is_set("roll-call", 2 * _ROLL_CALL_S):
            return "rank 0 is not run by whynan"
        text = bytes(self.store.get("roll-call")).decode()
        return "" if text == "-" else text

    def _is_set(self, key: str, seconds: float) -> bool:
        try:
            self.store.wait([key], timedelta(seconds=max(seconds, 0.001)))
        except Exception:
            return False
        return True

    # A flag ---------------------------------------------------------------------------------------------------------

    def launch(self, values: list[float]) -> "Flag":
        """Begin to find the largest of each of some numbers over all ranks; 4 bytes a number and rank."""
        tensor = torch.tensor(values)
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        return Flag(tensor, self.group.allreduce([tensor], options))

    # Messages -------------------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any) -> None:
        self.store.set(key, pickle.dumps(value))

    def get(self, key: str, seconds: float) -> Any:
        """Return another rank's message; None where it did not come in time."""
        if not self._is_set(key, seconds):
            return None
        # Written by `put` of the same job: the store is the one that the program's own ranks trust.
        return pickle.loads(bytes(self.store.get(key)))

    def exchange(self, key: str, value: Any, seconds: float) -> list[Any]:
        """Return what each rank has left under a key, None for those that did not in time.

        Rank 0 collects and hands out the list: two messages a rank, and the same answer for all. Where rank 0 does not
        answer, all but one's own are None.
        """
        self.put(f"{key}/{self.rank}", value)
        if self.rank == 0:
            until = time.monotonic() + seconds
            found = [self.get(f"{key}/{rank}", until - time.monotonic()) for rank in range(self.size)]
            self.put(f"{key}/all", found)
            return found
        found = self.get(f"{key}/all", seconds + _SLACK_S)
        return found if found is not None else [value if rank == self.rank else None for rank in range(self.size)]


class Flag:
    def __init__(self, tensor: Any, work: Any) -> None:
        self.tensor = tensor
        self.work = work

    def wait(self) -> list[float] | None:
        """Return the largest values; None where a rank is gone, which the program itself is about to notice."""
        try:
            self.work.wait()
        except Exception as error:
            tell("waiting for the other ranks failed", error)
            return None
        return [float(value) for value in self.tensor.tolist()]


class Patience:
    """Ends this process where an attempt in step has not come to its end: another rank hangs, and all wait for it.

    What is known has been written before. Nothing else can be done: whoever waits in a collective can't be called back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        if sys.__stderr__ is not None:
            text = f"whynan: another rank has not answered for {self._seconds:.0f} s in a replay: this process ends\n"
            write_safely(text, sys.__stderr__)
        os._exit(3)

    def over(self) -> None:
        self._timer.cancel()


class Single:
    """What a watch asks of its ranks, where there are none."""

    is_joint = False
    agreed = False
    look_at_all = False

    def before_backward(self, look_is_due: bool) -> None:
        """Nobody is to be told."""

    def before_update(self) -> None:
        """Nobody is to be asked."""

    def before_sharded_update(self) -> None:
        """Nobody has the other parts of the parameters."""

    def step_is_over(self) -> None:
        """Nothing has been agreed on."""


class Gathered:
    """What each gather of one attempt returned, in their order."""

    def __init__(self) -> None:
        self.values: list[list[Any]] = []
        self.n_bytes = 0
        self._n_given = 0

    @property
    def is_whole(self) -> bool:
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
    if any(id(p) not in covered or sum(not place.is_replicate() for place in p.placements) > 1 for p in shards):
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
            self._stack.callback(setattr, module, "reducer", module.reducer)
            module.reducer = _Reducer(module.reducer)
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


class _Reducer:
    """A reducer that does not order its buckets anew, which all ranks do together in their second forward pass."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False


class _Done:
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
