"""Keras on PyTorch: its steps are run again like those of other trainers; added is whose line a layer or loss is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import torch

from whynan.adapters.common.patches import Patches
from whynan.adapters.keras.places import Places
from whynan.adapters.keras.stack import epoch_of_fit
from whynan.adapters.keras.torch_optimizer import KerasOptimizer
from whynan.adapters.torch.frames import RUNNING, Running
from whynan.adapters.torch.snapshot import TensorCopies
from whynan.adapters.torch.trainers.closure import StepClosure
from whynan.records import SourceLine

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost

_SMALL = 2**16


class KerasOnTorch:
    """Attached when the program has imported Keras with the PyTorch backend."""

    version = keras.__version__

    def __init__(self, host: "TorchHost") -> None:
        from keras.src.backend.torch.trainer import TorchTrainer
        from keras.src.layers.layer import Layer
        from keras.src.losses.loss import Loss
        from keras.src.optimizers.base_optimizer import BaseOptimizer
        from keras.src.trainers.trainer import Trainer

        self.host = host
        self.places = Places()
        self.patches = Patches()
        self.losses: list[Any] = []
        self._optimizers: dict[int, KerasOptimizer] = {}
        self._training = StepClosure(host, "train_step")
        self._testing = StepClosure(host, "test_step")
        self.places.install(self.patches)
        self.patches.replace(TorchTrainer, "make_train_function", self._maker("train_function", self._train))
        self.patches.replace(TorchTrainer, "make_test_function", self._maker("test_function", self._test))
        self.patches.replace(Layer, "__call__", self._layer_call)
        self.patches.replace(Loss, "__call__", self._loss_call)
        self.patches.replace(Trainer, "_compute_loss", self._compute_loss)
        self.patches.replace(BaseOptimizer, "apply", self._apply)

    def undo(self) -> None:
        RUNNING.clear()
        self.patches.undo()

    # Steps ------------------------------------------------------------------------------------------------------------

    def _maker(self, name: str, run: Callable[[Any, Any, Any], Any]) -> Any:
        def wrapped(original: Any) -> Any:
            def make(trainer: Any, force: bool = False) -> Any:
                before = getattr(trainer, name)
                result = original(trainer, force)
                made = getattr(trainer, name)
                if made is not before and made is not None:
                    setattr(trainer, name, lambda data: run(trainer, made, data))
                return result

            return make

        return wrapped

    def _train(self, trainer: Any, function: Any, data: Any) -> Any:
        self.host.known.meet({"model": trainer})
        self.host.known.add_buffers([v.value for v in trainer.non_trainable_variables if v.value.numel() <= _SMALL])

        def step(batch: Any) -> Any:
            return function([batch])

        with self._states(trainer):
            return self._training.run(step, data[0], skipped=trainer.get_metrics_result, epoch=epoch_of_fit())

    def _test(self, trainer: Any, function: Any, data: Any) -> Any:
        self.host.known.meet({"model": trainer})

        def step(batch: Any) -> Any:
            self.losses.clear()
            logs = function([batch])
            for loss in self.losses[-1:]:
                self.host.asked(loss)
            return logs

        with self._states(trainer):
            return self._testing.run(step, data[0], skipped=trainer.get_metrics_result, epoch=epoch_of_fit())

    @contextmanager
    def _states(self, trainer: Any) -> Iterator[None]:
        """What a step changes beside parameters: what metrics have summed up, counters of random streams."""

        def copies() -> TensorCopies:
            return TensorCopies(v.value for v in trainer.variables if not v.trainable and v.value.numel() <= _SMALL)

        self.host.words = "keras"
        try:
            with self.host.known.also_saving(copies):
                yield
        finally:
            self.host.words = "torch"

    # What is running --------------------------------------------------------------------------------------------------

    def _layer_call(self, original: Any) -> Any:
        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if not self.host.is_replaying:
                return original(layer, *args, **kwargs)
            path = str(getattr(layer, "path", None) or layer.name).replace("/", ".")
            with _running(path, type(layer).__name__, self.places.frame_that_made(layer)):
                return original(layer, *args, **kwargs)

        return __call__

    def _loss_call(self, original: Any) -> Any:
        def __call__(loss: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if not self.host.is_replaying:
                return original(loss, *args, **kwargs)
            with _running(None, None, self.places.frame_that_made(loss)):
                return original(loss, *args, **kwargs)

        return __call__

    def _compute_loss(self, original: Any) -> Any:
        def _compute_loss(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            with _running(None, None, self.places.frame_of_compile(trainer)):
                loss = original(trainer, *args, **kwargs)
            if isinstance(loss, torch.Tensor):
                self.losses = [loss]
            return loss

        return _compute_loss

    # Updates ----------------------------------------------------------------------------------------------------------

    def _apply(self, original: Any) -> Any:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
            if self.host.is_over:
                return original(optimizer, grads, trainable_variables)
            known = self._optimizers.get(id(optimizer))
            if known is None or known.keras is not optimizer:
                known = self._optimizers[id(optimizer)] = KerasOptimizer.of(optimizer)
            known.refresh(trainable_variables)
            watch = self.host.watch
            watch.begin_update(known)
            try:
                return original(optimizer, grads, trainable_variables)
            finally:
                watch.end_update(known)

        return apply

    def made(self, thing: Any) -> SourceLine | None:
        return self.places.made(thing)


@contextmanager
def _running(path: str | None, kind: str | None, frame: Any) -> Iterator[None]:
    RUNNING.append(Running(path, kind, frame))
    try:
        yield
    finally:
        if RUNNING:
            RUNNING.pop()
