"""Transformers' Trainer: the step is `training_step`, forward and backward pass of one (micro-)batch.

A subclass may override it, so the bound method is wrapped while `train` runs, not the class's.
"""

from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.trainers.closure import StepClosure

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


def patch(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let the steps of every `Trainer` be run again."""
    closure = StepClosure(host, "training_step", "inputs")

    def wrapped(original: Any) -> Any:
        def _inner_training_loop(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            own = vars(trainer).get("training_step")
            vars(trainer)["training_step"] = _step(host, closure, trainer, trainer.training_step)
            try:
                return original(trainer, *args, **kwargs)
            finally:
                if own is None:
                    vars(trainer).pop("training_step", None)
                else:
                    vars(trainer)["training_step"] = own

        return _inner_training_loop

    patches.replace(module.Trainer, "_inner_training_loop", wrapped)


def _step(host: "TorchHost", closure: StepClosure, trainer: Any, original: Any) -> Any:
    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        host.known.meet({"model": trainer.model})
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        if isinstance(optimizer, torch.optim.Optimizer):
            host.known.add_optimizer(optimizer)

        def step(batch: Any) -> Any:
            return original(model, batch, *args, **kwargs)

        epoch = trainer.state.epoch
        return closure.run(
            step, inputs, skipped=lambda: _skipped(trainer), epoch=int(epoch) if epoch is not None else None
        )

    return training_step


def _skipped(trainer: Any) -> Any:
    """Return the loss of a step that was undone: NaN where the Trainer puts its average in its place, else 0."""
    hides = bool(trainer.args.logging_nan_inf_filter)
    return torch.tensor(float("nan") if hides else 0.0, device=trainer.args.device)
