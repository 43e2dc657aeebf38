"""Keras on PyTorch: its steps are run again like those of other trainers; added is whose line a layer or loss is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import torch

from whynan.adapters.common.patches import Patches
from whynan.adapters.keras import Places, epoch_of_fit
from whynan.adapters.torch.frames import RUNNING, Running
from whynan.adapters.torch.snapshot import TensorCopies
from whynan.adapters.torch.trainers import StepClosure
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


_HYPERPARAMETERS = {
    "epsilon": "eps", "weight_decay": "weight_decay", "momentum": "momentum", "rho": "alpha", "clipnorm": "clipnorm",
    "global_clipnorm": "global_clipnorm", "clipvalue": "clipvalue",
}  # fmt: skip


class KerasOptimizer:
    """What the watch, its snapshots and its experiments ask of an optimizer. `keras` is the optimizer itself."""

    def __init__(self, optimizer: Any) -> None:
        self.keras = optimizer
        self.param_groups: list[dict[str, Any]] = [_Group(optimizer)]

    @staticmethod
    def of(optimizer: Any) -> "KerasOptimizer":
        """Return the view of an optimizer; its class carries the name of the optimizer's own."""
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        kind = type(type(inner).__name__, (KerasOptimizer,), {})
        made: KerasOptimizer = kind(optimizer)
        return made

    def refresh(self, trainable_variables: Any) -> None:
        """Take the variables and the hyperparameters as they are now."""
        group = self.param_groups[0]
        variables = trainable_variables or getattr(self.keras, "_trainable_variables", ())
        parameters = [variable.value for variable in variables]
        if [id(p) for p in parameters] != [id(p) for p in group["params"]]:
            group["params"] = parameters
        group.refresh()  # type: ignore[attr-defined]

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        """All of the optimizer's variables, at its first parameter: which belongs to which is Keras' business."""
        parameters = self.param_groups[0]["params"]
        rate = getattr(self.keras, "_learning_rate", None)
        variables = {v.path: v.value for v in self.keras.variables if v is not rate}
        tensors = {path: value for path, value in variables.items() if isinstance(value, torch.Tensor)}
        return {parameters[0]: tensors} if parameters and tensors else {}


class _Group(dict[str, Any]):
    """A group whose hyperparameters, when they are set, are the optimizer's."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(params=[])
        self._optimizer = optimizer
        self._inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._schedule: Any = None

    def refresh(self) -> None:
        super().__setitem__("lr", float(self._inner.learning_rate))
        for name, key in _HYPERPARAMETERS.items():
            value = getattr(self._inner, name, None)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                super().__setitem__(key, value)
        if hasattr(self._inner, "beta_1"):
            super().__setitem__("betas", (self._inner.beta_1, self._inner.beta_2))

    def __setitem__(self, key: str, value: Any) -> None:
        before = self.get(key)
        super().__setitem__(key, value)
        if value == before if key != "params" else True:
            return
        if key == "lr":
            self._set_rate(float(value))
        for name, other in _HYPERPARAMETERS.items():
            if other == key:
                setattr(self._inner, name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def _set_rate(self, value: float) -> None:
        rate = self._inner._learning_rate
        if hasattr(rate, "assign"):
            rate.assign(value)
            return
        # A schedule cannot be set: a constant stands in for it until the value is that of the schedule again.
        if self._schedule is None:
            self._schedule = rate
        self._inner._learning_rate = lambda: value
        if value == float(self._schedule(self._inner.iterations)):
            self._inner._learning_rate, self._schedule = self._schedule, None
