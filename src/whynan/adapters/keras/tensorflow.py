"""Keras on TensorFlow: how its trainer, layers, losses and optimizers are watched."""

from typing import Any

import keras

from whynan.adapters.common.arrays import to_numpy
from whynan.adapters.keras.places import Places
from whynan.adapters.keras.stack import epoch_of_fit, fit_arrays, fit_data
from whynan.adapters.keras.trainer import TrainerHooks
from whynan.adapters.tensorflow.closure import Closure, FitClosure
from whynan.adapters.tensorflow.host import TensorFlowHost


class KerasOnTensorFlow:
    """Attached when the program has imported Keras with the TensorFlow backend."""

    version = keras.__version__

    def __init__(self, host: TensorFlowHost) -> None:
        from keras.src.losses.loss import Loss
        from keras.src.optimizers.base_optimizer import BaseOptimizer
        from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer

        self.host = host
        self.places = Places()
        self.places.install(host.watch.patches)
        self.trainer = TrainerHooks(self.places, self.before, self.after)
        self.trainer.install(host.watch.patches)
        host.watch.patches.replace(Loss, "__call__", self._loss_call)
        host.watch.watch_optimizer(BaseOptimizer, LossScaleOptimizer)
        host.hooks = self.trainer.for_attempt
        host.places = self.places
        host.sources, host.given = fit_arrays, fit_data
        host.epoch = epoch_of_fit
        host.is_in_fit = lambda: self.trainer.is_inside

    def _loss_call(self, original: Any) -> Any:
        watch = self.host.watch

        def __call__(loss: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            value = original(loss, *args, **kwargs)
            if watch.is_enabled and watch.attempt is None and not self.trainer.is_inside:
                watch.note_loss_object(value)
            return value

        return __call__

    def before(self, model: Any, method: str) -> None:
        """A step of `fit` is about to run."""
        if method == "train_step":
            self.host.before_step(FitClosure(model, method, ()))

    def after(self, model: Any, method: str, held: list[Any], logs: Any) -> None:
        """A step of `fit` or `evaluate` has returned."""
        watch, run = self.host.watch, self.host.run
        if run.is_over or not held:
            return
        if method == "train_step":
            if watch.training or watch.eager_told is not None:
                told = watch.eager_told if model.run_eagerly else watch.flags.read()
                self.host.after_fit_step(FitClosure(model, method, held[-1]), told)
            return
        loss = logs.get("loss") if isinstance(logs, dict) else None
        array = to_numpy(loss) if loss is not None else None
        if array is not None and array.size == 1 and not bool(abs(float(array)) < float("inf")):
            # What is known is a mean over what this execution has seen.
            closures: list[Closure] = [FitClosure(model, method, batch) for batch in held]
            self.host.incident(self.host.first_failing(closures), None)
