"""PyTorch Lightning: the step is what its optimization loops run for a batch, optimizer step included."""

from typing import TYPE_CHECKING, Any

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.trainers.closure import MetricStates, StepClosure

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


def patch_automatic(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let automatic optimization be run again: closure, backward pass and optimizer step."""
    closure = StepClosure(host, "training_step")

    def wrapped(original: Any) -> Any:
        def run(loop: Any, optimizer: Any, batch_idx: int, kwargs: Any) -> Any:
            if "batch" not in kwargs:  # a step that draws its batches from the iterator itself
                return original(loop, optimizer, batch_idx, kwargs)
            _meet(host, loop.trainer)

            def step(batch: Any) -> Any:
                return original(loop, optimizer, batch_idx, type(kwargs)(kwargs, batch=batch))

            with host.known.also_saving(lambda: _Progress(loop)):
                return closure.run(step, kwargs["batch"], skipped=dict, epoch=loop.trainer.current_epoch)

        return run

    patches.replace(module._AutomaticOptimization, "run", wrapped)


def patch_manual(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let a `training_step` that calls `backward` and `step` itself be run again."""
    closure = StepClosure(host, "training_step")

    def wrapped(original: Any) -> Any:
        def run(loop: Any, kwargs: Any) -> Any:
            if "batch" not in kwargs:
                return original(loop, kwargs)
            _meet(host, loop.trainer)

            def step(batch: Any) -> Any:
                return original(loop, type(kwargs)(kwargs, batch=batch))

            with host.known.also_saving(lambda: _Progress(loop)):
                return closure.run(step, kwargs["batch"], skipped=dict, epoch=loop.trainer.current_epoch)

        return run

    patches.replace(module._ManualOptimization, "run", wrapped)


def _meet(host: "TorchHost", trainer: Any) -> None:
    """Make the model and its optimizers known before the first step."""
    host.known.meet({"model": trainer.lightning_module})
    for optimizer in trainer.optimizers:
        host.known.add_optimizer(optimizer)


class _Progress:
    """Lightning's own counts of steps and what has been logged so far, which a replay must not count twice."""

    def __init__(self, loop: Any) -> None:
        self.progress = loop.optim_progress if hasattr(loop, "optim_progress") else loop.optim_step_progress
        self.counts = self.progress.state_dict()
        self.results = getattr(loop.trainer, "_results", None)
        self.logged = dict(self.results) if self.results is not None else {}
        self.metrics = MetricStates(self.logged.values())
        self.others = dict(vars(self.results)) if self.results is not None else {}

    def restore(self) -> None:
        self.progress.load_state_dict(self.counts)
        if self.results is not None:
            for key in [key for key in self.results if key not in self.logged]:
                del self.results[key]
            self.metrics.restore()
            vars(self.results).update(self.others)
