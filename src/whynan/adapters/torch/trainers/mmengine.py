"""MMEngine: the step is the model's `train_step`, which its loops call for each batch."""

from typing import TYPE_CHECKING, Any

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.trainers.closure import StepClosure

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


def patch(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let `train_step` be run again in the loops by epoch and by iteration."""
    closure = StepClosure(host, "train_step", "data")

    def wrapped(original: Any) -> Any:
        def run_iter(loop: Any, *args: Any, **kwargs: Any) -> Any:
            model = loop.runner.model
            own = vars(model).get("train_step")
            if own is None:
                host.known.meet({"model": model})
                vars(model)["train_step"] = _step(closure, loop, model.train_step)
            try:
                return original(loop, *args, **kwargs)
            finally:
                if own is None:
                    vars(model).pop("train_step", None)

        return run_iter

    for name in ("EpochBasedTrainLoop", "IterBasedTrainLoop"):
        patches.replace(getattr(module, name), "run_iter", wrapped)


def _step(closure: StepClosure, loop: Any, original: Any) -> Any:
    def train_step(data: Any, optim_wrapper: Any) -> Any:
        return closure.run(lambda given: original(given, optim_wrapper), data, skipped=dict, epoch=loop.epoch)

    return train_step
