"""Keras on TensorFlow: how its trainer, layers, losses and optimizers are watched."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import keras

from whynan.adapters.common.arrays import to_numpy
from whynan.adapters.common.patches import Patches
from whynan.adapters.keras import Places, epoch_of_fit, fit_arrays, fit_data
from whynan.adapters.tensorflow.closure import Closure, FitClosure
from whynan.adapters.tensorflow.host import TensorFlowHost
from whynan.adapters.tensorflow.replay import Attempt
from whynan.records import SourceLine


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
        self.trainer = TrainerHooks(self.places, self.before, self.after, self.given)
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

    def given(self, model: Any, method: str, batch: Any) -> Any:
        """Return the batch without the samples that are left out."""
        left_out = self.host.watch.left_out
        if not left_out.samples or method != "train_step":
            return batch
        closure = FitClosure(model, method, batch)
        rows = left_out.rows(closure.parts)
        return closure.with_rows(rows).data if rows is not None else batch

    def before(self, model: Any, method: str) -> None:
        """A step of `fit` is about to run."""
        if method == "train_step":
            self.host.watch.told = None
            self.host.before_step(FitClosure(model, method, ()))

    def after(self, model: Any, method: str, held: list[Any], logs: Any) -> None:
        """A step of `fit` or `evaluate` has returned."""
        watch, run = self.host.watch, self.host.run
        if run.is_over or not held:
            return
        if method == "train_step":
            if watch.training or watch.eager_told is not None:
                told = watch.eager_told if model.run_eagerly else watch.told or watch.flags.read()
                self.host.after_fit_step(FitClosure(model, method, held[-1]), told)
            return
        loss = logs.get("loss") if isinstance(logs, dict) else None
        array = to_numpy(loss) if loss is not None else None
        if array is not None and array.size == 1 and not bool(abs(float(array)) < float("inf")):
            # What is known is a mean over what this execution has seen.
            closures: list[Closure] = [FitClosure(model, method, batch) for batch in held]
            self.host.incident(self.host.first_failing(closures), None)


Batch = Any
StepHook = Callable[[Any, str, Batch, Any], None]


class TrainerHooks:
    """Patches of Keras' trainer for the TensorFlow backend. `after(model, method, data, logs)` is told of each step."""

    def __init__(
        self, places: Places, before: Callable[[Any, str], None], after: StepHook, given: Callable[[Any, str, Any], Any]
    ) -> None:
        self.places = places
        self.before = before
        self.after = after
        self.given = given
        self.is_enabled = True
        self.is_inside = False

    def install(self, patches: Patches) -> None:
        from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

        patches.replace(TensorFlowTrainer, "_make_function", self._make_function)

    def _make_function(self, original: Any) -> Any:
        hooks = self

        def _make_function(trainer: Any, step_function: Any) -> Any:
            function = original(trainer, step_function)
            method = getattr(step_function, "__name__", "")
            if method not in ("train_step", "test_step"):
                return function

            def step(iterator: Any) -> Any:
                kind = type(trainer.distribute_strategy).__name__
                if hooks.is_enabled and kind == "MirroredStrategy" and method == "train_step":
                    # Its compiled step is watched like a function of the program's own.
                    return function(_fed(iterator, trainer.steps_per_execution, [], lambda: None))
                if not hooks.is_enabled or kind != "_DefaultDistributionStrategy":
                    return function(iterator)
                held: list[Any] = []
                hooks.before(trainer, method)

                def between() -> None:
                    """A step of several in one execution has run, and the next is to come."""
                    if method == "train_step":
                        hooks.is_inside = False
                        hooks.after(trainer, method, held, None)
                        hooks.is_inside = True

                hooks.is_inside = True
                try:
                    given = partial(hooks.given, trainer, method)
                    logs = function(_fed(map(given, iterator), trainer.steps_per_execution, held, between))
                finally:
                    hooks.is_inside = False
                hooks.after(trainer, method, held, logs)
                return logs

            return step

        return _make_function

    def for_attempt(self, attempt: Attempt, stack: ExitStack) -> None:
        """While a step is run again, know which layer and which loss an operation belongs to."""
        from keras.src.layers.layer import Layer
        from keras.src.losses.loss import Loss
        from keras.src.trainers.trainer import Trainer

        patches = Patches()
        stack.callback(patches.undo)
        patches.replace(Layer, "__call__", lambda original: self._layer_call(original, attempt))
        patches.replace(Loss, "__call__", lambda original: self._loss_call(original, attempt))
        patches.replace(Trainer, "_compute_loss", lambda original: self._compute_loss(original, attempt))

    def _layer_call(self, original: Any, attempt: Attempt) -> Any:
        places = self.places

        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            tracer = attempt.tracer
            if tracer is None:
                return original(layer, *args, **kwargs)
            tracer.layers.append((_path(layer), type(layer).__name__, places.made(layer)))
            try:
                return original(layer, *args, **kwargs)
            finally:
                tracer.layers.pop()

        return __call__

    def _loss_call(self, original: Any, attempt: Attempt) -> Any:
        def __call__(loss: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            tracer = attempt.tracer
            name = str(getattr(getattr(loss, "fn", None), "__name__", None) or getattr(loss, "name", "loss"))
            if tracer is None:
                value = original(loss, y_true, y_pred, *args, **kwargs)
                if attempt.stops_at_loss and not self._is_computing:
                    attempt.on_loss(value)
                return value
            line = self.places.made(loss) or self._compile_line()
            tracer.losses.append((name, line))
            attempt.loss_call = (name, y_pred, y_true)
            try:
                value = original(loss, y_true, y_pred, *args, **kwargs)
            finally:
                tracer.losses.pop()
            if attempt.stops_at_loss and not self._is_computing:
                attempt.on_loss(value)
            return value

        return __call__

    def _compute_loss(self, original: Any, attempt: Attempt) -> Any:
        def _compute_loss(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            tracer = attempt.tracer
            if tracer is not None:
                tracer.losses.append(("loss", self.places.compiled(trainer)))
            self._model = trainer
            self._is_computing = True
            try:
                loss = original(trainer, *args, **kwargs)
            finally:
                self._is_computing = False
                if tracer is not None:
                    tracer.losses.pop()
            attempt.loss = loss
            if attempt.stops_at_loss:
                attempt.on_loss(loss)
            return loss

        return _compute_loss

    _model: Any = None
    _is_computing = False
    """Whether the trainer adds its losses up: then their sum is what counts."""

    def _compile_line(self) -> SourceLine | None:
        return self.places.compiled(self._model) if self._model is not None else None


def _fed(iterator: Any, n: int, held: list[Any], between: Callable[[], None]) -> Any:
    """Return an iterator in Python over the next batches, which also keeps them.

    Keras runs its step on each of what such an iterator gives, and asks for the next when a step has run. The first
    batch is drawn here: an iterator that has ended must say so to Keras' loop.
    """
    drawn = iter(iterator)
    first = next(drawn)

    def batches() -> Iterator[Any]:
        for batch in itertools.chain([first], itertools.islice(drawn, max(n - 1, 0))):
            if held:
                between()
            held.append(batch)
            yield batch

    return batches()


def _path(layer: Any) -> str:
    path = str(getattr(layer, "path", None) or layer.name)
    return path.replace("/", ".")
