"""The common verdict of a step: each rank's flag goes along with the gradients, and is read before the update.

A loss that is non-finite on one rank makes the gradients of all ranks so. The step is left on all ranks at the same
place, just before the optimizer would use them, never earlier: a rank that left alone would leave the others waiting.
"""

import functools
import socket
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.elements import first_nonfinite
from whynan.adapters.torch.ranks.alone import Alone, Flag, Gathered, Job
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.storages import values_of
from whynan.launch.host import tell
from whynan.records import Incident

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


class Ranks:
    """This process among the others of its job; does nothing where there is only one."""

    def __init__(self, host: "TorchHost") -> None:
        self.host = host
        self.job: Job | None = None
        self.is_hopeless = False
        self._filled: list[Any] = []
        self.n_incidents = 0
        self.was_bad_here = False
        """Whether this rank's own loss was non-finite in the step under way."""
        self.look_at_all = False
        """Whether all ranks read all gradients of the step under way."""
        self.agreed = False
        self.went_alone = False
        """Whether this rank has an incident of which the others have not heard."""
        self.early: Incident | None = None
        """What a micro-batch of this rank's has done, explained while the others went on to the update."""
        self._flags: list[Flag] = []
        self._models: weakref.WeakSet[Any] = weakref.WeakSet()
        self._averages_by_hand = False
        self._look_is_due = False
        self._is_shard_bad = False
        self._store: Any = None
        self.rank: int | None = None
        """This process's number; None while it is in no group of several."""

    def install(self, patches: Patches) -> None:
        """Know the models that are wrapped for several processes."""
        if not dist.is_available():
            return
        models = self._models

        def wrapped(original: Any) -> Any:
            @functools.wraps(original)
            def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807
                original(self, *args, **kwargs)
                models.add(self)

            return __init__

        patches.replace(torch.nn.parallel.DistributedDataParallel, "__init__", wrapped)
        patches.replace(dist, "all_reduce", self._all_reduce)
        hook = getattr(torch.nn.parallel.distributed, "_DDPJoinHook", None)
        if hook is not None:
            patches.replace(hook, "main_hook", self._shadow)

    def _shadow(self, original: Any) -> Any:
        """Under `join()` a rank without inputs answers the others' collectives; so it does their flags."""

        @functools.wraps(original)
        def main_hook(hook: Any) -> None:
            original(hook)
            if self.host.is_over or not hook.ddp.require_forward_param_sync:
                return
            self._look_is_due = False
            self._send()
            if self.is_agreed():
                self._attend()

        return main_hook

    def _attend(self) -> None:
        from whynan.adapters.torch.ranks import consult

        incident = consult.attend(self)
        self.begin_anew()
        if incident is not None:
            self.host.record(incident)
        if self.host.options.policy == "stop":
            self.host.end()

    def _all_reduce(self, original: Any) -> Any:
        @functools.wraps(original)
        def all_reduce(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.host.is_over and self.host.plan is None and not self._models and self.is_gradient(tensor):
                self._averages_by_hand = True
                if not self._flags:
                    self._send()
            return original(tensor, *args, **kwargs)

        return all_reduce

    def is_gradient(self, tensor: Any) -> bool:
        if not isinstance(tensor, torch.Tensor):
            return False
        gradients = [p.grad for p in self.host.known.parameters() if p.grad is not None]
        if any(tensor is gradient for gradient in gradients):
            return True
        places = {gradient.data_ptr() for gradient in gradients if gradient.layout == torch.strided}
        if tensor.layout != torch.strided or not gradients:
            return False
        return tensor.data_ptr() in places or tensor.numel() == sum(gradient.numel() for gradient in gradients) > 1

    @property
    def is_joint(self) -> bool:
        return self.job is not None

    @property
    def is_silent(self) -> bool:
        """Whether rank 0 speaks for this one."""
        return self.job is not None and self.job.rank != 0

    @property
    def is_among_others(self) -> bool:
        """Whether what the program sends to other processes has somewhere to go."""
        return bool(dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)

    @property
    def models(self) -> list[Any]:
        return list(self._models)

    def before_backward(self, look_is_due: bool) -> None:
        """Send this rank's flag on its way, while the gradients are made and sent."""
        self._look_is_due = look_is_due
        self._store_now()
        if self._is_syncing() and self.host.plan is None and not self.host.is_over:
            self._send()

    def _send(self) -> None:
        if self.job is None and not self.is_hopeless:
            self._join()
        if self.job is not None:
            is_bad = self.was_bad_here or self._is_shard_bad
            self._flags.append(self.job.launch([float(is_bad), float(self._look_is_due)]))

    def _is_syncing(self) -> bool:
        if self.is_hopeless or not dist.is_available() or not dist.is_initialized():
            return False
        return any(model.require_backward_grad_sync for model in self._models)

    def _join(self) -> None:
        if dist.get_world_size() == 1:
            self.is_hopeless = True
            return
        try:
            self.job = Job()
        except Exception as error:
            self.is_hopeless = True
            tell("a common verdict of all ranks", error)

    def before_update(self) -> None:
        """Read what all ranks have said of this step; where one's loss was bad, all leave it here."""
        if self.host.plan is not None:
            return
        if self.is_agreed():
            self.host.leave_together(self.event())
        elif self.job is None and self.was_bad_here:
            self.host.leave_alone()  # nobody waits for this rank's gradients: each one trains for itself

    def before_sharded_update(self) -> None:
        """The same where each rank has a part of the parameters: its part of the gradients counts as well.

        The flag is sent and read here, beside nothing: only now this rank's part of the gradients is there.
        """
        host = self.host
        if host.plan is not None or host.is_over or not self.is_among_others:
            return
        shards = [values_of(p.grad) for p in host.known.parameters() if p.grad is not None]
        if first_nonfinite(shards) and not self.was_bad_here:
            self._is_shard_bad = True
        self._send()
        if self.is_agreed():
            host.leave_together(self.event())
        elif self.job is None and (self.was_bad_here or self._is_shard_bad):
            host.leave_alone()

    def spread_again(self) -> None:
        """Let `fully_shard` forget what this rank had gathered for attempts of its own."""
        for module in {id(m): m for root in self.host.known.modules.values() for m in root.modules()}.values():
            if hasattr(module, "reshard"):
                module.reshard()

    def compare(self, is_bad: bool, is_over: bool) -> tuple[bool, bool]:
        """Wait for all ranks in an attempt that they make in step; return whether one is bad, and whether all end it.

        Where one is gone nobody goes on.
        """
        shards = [values_of(p.grad) for p in self.host.known.parameters() if p.grad is not None]
        if not is_bad and not is_over and self.host.known.is_sharded:
            is_bad = bool(first_nonfinite(shards))
        values = self.job.launch([float(is_bad), float(is_over)]).wait() if self.job is not None else None
        if values is None:
            return is_bad, True
        return values[0] > 0, max(values) > 0

    def is_agreed(self) -> bool:
        """Wait for the flags that are under way; return whether one of them was set."""
        flags, self._flags = self._flags, []
        if self.job is None or not flags:
            return self.agreed
        self.look_at_all, self.agreed = False, False
        values = [flag.wait() for flag in flags]
        if any(value is None for value in values):
            self.job, self.is_hopeless = None, True
            return False
        self.look_at_all = any(value[1] > 0 for value in values if value is not None)
        self.agreed = any(value[0] > 0 for value in values if value is not None)
        return self.agreed

    @staticmethod
    def event() -> Event:
        return Event("gradient", "before optimizer.step()", [], "the gradients of all ranks", "nan")

    @property
    def has_sent(self) -> bool:
        return bool(self._flags)

    def step_is_over(self) -> None:
        if self.host.pending is None and self.host.plan is None:
            self.was_bad_here = self._is_shard_bad = self.look_at_all = False

    def begin_anew(self) -> None:
        """The incident is over; what follows is another step."""
        self.was_bad_here = self._is_shard_bad = self.agreed = False
        self.early = None
        for parameter in self._filled:
            parameter.grad = None
        self._filled = []

    def leave_out(self, incident: Incident | None) -> None:
        """A micro-batch is over for this rank, its gradients undone; the update follows, which all leave.

        What only that micro-batch used counts as used for `DistributedDataParallel`, which asks for its gradient.
        """
        self.early = incident
        searching = [model for model in self._models if getattr(model, "find_unused_parameters", False)]
        self._filled = [p for model in searching for p in model.parameters() if p.requires_grad and p.grad is None]
        for parameter in self._filled:
            parameter.grad = torch.zeros_like(parameter)

    def defers(self, event: Event) -> bool:
        """Whether this rank must not leave at once for its bad loss: the others are waiting for its gradients."""
        if event.what != "loss" or event.when != "backward" or self.is_hopeless:
            return False
        if not self.is_among_others:
            return False
        self.was_bad_here = True
        return True

    def listen(self, on_gradient: Callable[[Any], None]) -> Patches:
        """Be told of non-finite gradients before they are scattered over the ranks; returns what to undo."""
        patches = Patches()

        def wrapped(original: Any) -> Any:
            def reduce_scatter(group: Any, output: Any, tensor: Any, *args: Any) -> Any:
                if isinstance(tensor, torch.Tensor) and first_nonfinite([tensor]):
                    on_gradient(tensor)
                return original(group, output, tensor, *args)

            return reduce_scatter

        for name in ("_reduce_scatter_base", "reduce_scatter_single"):
            if hasattr(dist.ProcessGroup, name):
                patches.replace(dist.ProcessGroup, name, wrapped)
        return patches

    def alone(self, on_answer: Callable[[Any], None], gathered: Gathered | None = None) -> Alone:
        return Alone(self._models, on_answer, gathered, self.host.known.is_sharded)

    @staticmethod
    def own_words(was_replayed: bool) -> str:
        """Say which rank an incident is of that it has looked into without asking the others."""
        place = f"rank {dist.get_rank()} of {dist.get_world_size()} on {socket.gethostname()}"
        return f"{place}: the step was run again by itself; sample and line are its own" if was_replayed else place

    # The report of a rank that fails by itself ------------------------------------------------------------------------

    def claim_report(self) -> bool:
        """Return whether this rank is the first of the job that has something to say, and so speaks for the job."""
        store = self._store_now()
        try:
            return store is None or store.add("report", 1) == 1
        except Exception:
            return True  # nobody is left who could say otherwise

    def is_report_claimed(self) -> bool:
        """Whether another rank has something to say that a report of a healthy run must not replace."""
        store = self._store_now()
        try:
            return store is not None and bool(store.check(["report"]))
        except Exception:
            return False

    def _store_now(self) -> Any:
        if self._store is None and self.is_among_others:
            self.rank = dist.get_rank()
            self._store = dist.PrefixStore("whynan", dist.distributed_c10d._get_default_store())
        return self._store
