"""The common verdict of a step: each rank's flag goes along with the gradients, and is read before the update.

A loss that is non-finite on one rank makes the gradients of all ranks so. The step is left on all ranks at the same
place, just before the optimizer would use them, never earlier: a rank that left alone would leave the others waiting.
"""

import weakref
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.event import Event
from whynan.adapters.torch.ranks.alone import Alone
from whynan.adapters.torch.ranks.job import Flag, Job
from whynan.launch.host import tell

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


class Ranks:
    """This process among the others of its job; does nothing where there is only one."""

    def __init__(self, host: "TorchHost") -> None:
        self.host = host
        self.job: Job | None = None
        self.is_hopeless = False
        self.n_incidents = 0
        self.was_bad_here = False
        """Whether this rank's own loss was non-finite in the step under way."""
        self.look_at_all = False
        """Whether all ranks read all gradients of the step under way."""
        self.agreed = False
        self._flags: list[Flag] = []
        self._models: weakref.WeakSet[Any] = weakref.WeakSet()

    def install(self, patches: Patches) -> None:
        """Know the models that are wrapped for several processes."""
        if not dist.is_available():
            return
        models = self._models

        def wrapped(original: Any) -> Any:
            def __init__(module: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
                original(module, *args, **kwargs)
                models.add(module)

            return __init__

        patches.replace(torch.nn.parallel.DistributedDataParallel, "__init__", wrapped)

    @property
    def is_joint(self) -> bool:
        """Whether the ranks decide together."""
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
        if not self._is_syncing() or self.host.plan is not None or self.host.is_over:
            return
        if self.job is None:
            self._join()
        if self.job is not None:
            self._flags.append(self.job.launch([float(self.was_bad_here), float(look_is_due)]))

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
        flags, self._flags = self._flags, []
        if self.job is None or not flags or self.host.plan is not None:
            return
        self.look_at_all, self.agreed = False, False
        values = [flag.wait() for flag in flags]
        if any(value is None for value in values):
            self.job, self.is_hopeless = None, True
            return
        self.look_at_all = any(value[1] > 0 for value in values if value is not None)
        if any(value[0] > 0 for value in values if value is not None):
            self.agree(Event("gradient", "before optimizer.step()", [], "the gradients of all ranks", "nan"))

    def agree(self, event: Event) -> None:
        """All ranks have found this step bad: leave it."""
        self.agreed = True
        self.host.leave_together(event)

    def step_is_over(self) -> None:
        if self.host.pending is None and self.host.plan is None:
            self.was_bad_here, self.look_at_all = False, False

    def defers(self, event: Event) -> bool:
        """Whether this rank must not leave at once for its bad loss: the others are waiting for its gradients."""
        if event.what != "loss" or event.when != "backward" or self.is_hopeless:
            return False
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return False
        if not self._models:
            return False
        self.was_bad_here = True
        return True

    def alone(self) -> Alone:
        """What is entered for a replay on this rank only."""
        return Alone(self._models)
