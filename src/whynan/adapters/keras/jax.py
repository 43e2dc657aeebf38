"""Keras on JAX: its compiled steps are calls like any other; added is which layer and loss a line belongs to."""

import sys
from contextlib import ExitStack
from typing import Any

import jax
import keras
from keras.src.backend.jax import trainer

from whynan.adapters.common.patches import Patches
from whynan.adapters.common.run import number_of
from whynan.adapters.jax.host import JaxHost
from whynan.adapters.jax.replay import Call, Traced, trace_call
from whynan.adapters.jax.trace import LAYER_TAG
from whynan.adapters.keras import Places, epoch_of_fit, fit_arrays, fit_data
from whynan.records import OptimizerFacts, SourceLine

Layer = tuple[str, str, SourceLine | None]


class KerasOnJax:
    """Attached when the program has imported Keras with the JAX backend."""

    version = keras.__version__

    def __init__(self, host: JaxHost) -> None:
        self.host = host
        self.places = Places()
        self.places.install(host.watch.patches)
        self.layers: list[Layer] = []
        host.watch.watch_module(trainer)
        self.model: Any = None
        self._loss: str | None = None
        host.watch.epoch = epoch_of_fit
        host.watch.waits_for_derivatives = True
        host.watch.patches.replace(trainer.JAXTrainer, "jax_state_sync", self._sync)
        for name in ("save", "save_weights"):
            host.watch.patches.replace(keras.Model, name, self._saving)

    def epoch(self) -> int | None:
        return epoch_of_fit()

    def sources(self) -> list[Any]:
        return fit_arrays()

    def given(self) -> list[Any]:
        return fit_data()

    def loss_function(self) -> str | None:
        return self._loss

    def traced(self, call: Call) -> Traced:
        """Trace a call with Keras' layers and losses marked in it."""
        self.model = getattr(call.function, "__self__", None)
        self.layers.clear()
        with ExitStack() as stack:
            self._mark(stack)
            return trace_call(call, self.layers)

    # Weights ----------------------------------------------------------------------------------------------------------

    def _sync(self, original: Any) -> Any:
        """Weights that come into the model's variables have been looked at: from there they get into checkpoints."""
        watch = self.host.watch

        def jax_state_sync(trainer: Any) -> Any:
            if self._is_watching() and not getattr(trainer, "_jax_state_synced", True):
                # A step on one batch ends with this each time; its weights are looked at when they are saved.
                watch.poll(wait=True) if _is_called_by("train_on_batch") else watch.settle()
            return original(trainer)

        jax_state_sync.__wrapped__ = original  # type: ignore[attr-defined]
        return jax_state_sync

    def _saving(self, original: Any) -> Any:
        def save(model: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_watching():
                self.host.watch.settle()
            return original(model, *args, **kwargs)

        save.__doc__, save.__wrapped__ = original.__doc__, original  # type: ignore[attr-defined]
        return save

    def _is_watching(self) -> bool:
        return self.host.watch.is_enabled and not self.host.watch.is_replaying and not self.host.run.is_over

    def pairs(self, call: Call) -> dict[int, int] | None:
        """Return which result is an argument's next value: a step of Keras' gives its logs, then the state."""
        args, _ = jax.tree_util.tree_unflatten(call.tree, call.leaves)
        if not isinstance(getattr(call.function, "__self__", None), trainer.JAXTrainer) or not args:
            return None
        n_state = len(jax.tree_util.tree_leaves(args[0]))
        first = len(call.outputs) - n_state
        return {place: first + place for place in range(n_state)} if first >= 0 else None

    def put_back(self, call: Call) -> None:
        """Give the model the state from before a step of Keras' own."""
        model = getattr(call.function, "__self__", None)
        args, _ = jax.tree_util.tree_unflatten(call.tree, call.leaves)
        if not isinstance(model, trainer.JAXTrainer) or not args or len(args[0]) != len(_STATE):
            return
        model._jax_state = dict(zip(_STATE, args[0]))
        model._jax_state_synced = False
        jax_state_sync = trainer.JAXTrainer.jax_state_sync
        getattr(jax_state_sync, "__wrapped__", jax_state_sync)(model)

    def optimizer_facts(self) -> OptimizerFacts | None:
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            return None
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return OptimizerFacts(
            name=type(inner).__name__,
            lr=number_of(getattr(inner, "learning_rate", None)),
            eps=number_of(getattr(inner, "epsilon", None)),
            weight_decay=number_of(getattr(inner, "weight_decay", None)),
            momentum=number_of(getattr(inner, "momentum", None)),
            source=self.places.made(optimizer),
        )

    def _mark(self, stack: ExitStack) -> None:
        from keras.src.layers.layer import Layer
        from keras.src.losses.loss import Loss
        from keras.src.trainers.trainer import Trainer

        patches = Patches()
        stack.callback(patches.undo)
        patches.replace(Layer, "__call__", self._layer_call)
        patches.replace(Loss, "__call__", self._loss_call)
        patches.replace(Trainer, "_compute_loss", self._compute_loss)

    def _scope(self, layer: Layer) -> Any:
        self.layers.append(layer)
        return jax.named_scope(f"{LAYER_TAG}{len(self.layers) - 1}")

    def _layer_call(self, original: Any) -> Any:
        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            path = str(getattr(layer, "path", None) or layer.name).replace("/", ".")
            with self._scope((path, type(layer).__name__, self.places.made(layer))):
                return original(layer, *args, **kwargs)

        return __call__

    def _loss_call(self, original: Any) -> Any:
        def __call__(loss: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            self._loss = str(getattr(getattr(loss, "fn", None), "__name__", None) or getattr(loss, "name", "loss"))
            line = self.places.made(loss) or (self.places.compiled(self.model) if self.model is not None else None)
            with self._scope((self._loss, "Loss", line)):
                return original(loss, *args, **kwargs)

        return __call__

    def _compute_loss(self, original: Any) -> Any:
        def _compute_loss(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            with self._scope(("loss", "Loss", self.places.compiled(trainer))):
                return original(trainer, *args, **kwargs)

        return _compute_loss


_STATE = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


def _is_called_by(name: str) -> bool:
    return sys._getframe(2).f_code.co_name == name
