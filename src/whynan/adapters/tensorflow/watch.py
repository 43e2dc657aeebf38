"""Watches tapes, `tf.function`s and optimizers: a step whose loss or gradients are not finite updates nothing.

The test is part of the step (one small variable is written), the update is made conditional on it. A `tf.function` that
has run is asked for that variable afterwards; an eager tape tells at once.
"""

import functools
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import backprop
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.eager.record import could_possibly_record

from whynan.adapters.common.arrays import LeftOut, all_finite, to_numpy
from whynan.adapters.common.loops import decides_by_gradients, takes_gradients
from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import calling_frame
from whynan.adapters.tensorflow import flags
from whynan.adapters.tensorflow.closure import FunctionClosure, on_replica
from whynan.adapters.tensorflow.flags import Flags, LossFlag, Told, is_bad, loss_in
from whynan.adapters.tensorflow.replay import Attempt, Stop
from whynan.launch.host import is_user_file, tell
from whynan.watching import Budget

_MAX_KNOWN = 4096


class Watch:
    """What is patched, and what it has seen. `on_step` is told of every training step that has returned."""

    def __init__(self) -> None:
        self.patches = Patches()
        self.flags = Flags()
        self.attempt: Attempt | None = None
        self.is_enabled = True
        self.recovers = False
        self.left_out = LeftOut()
        self.limit: float | None = None
        """The largest norm of the gradients from here on."""
        self._limit: Any = None
        self.n_replicas = 1
        self.on_first_gradient: Callable[[], None] | None = None
        self.depth = 0
        self.training: weakref.WeakSet[Any] = weakref.WeakSet()
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.current: Any = None
        self.before_function: Callable[[Any], None] = lambda closure: None
        self.has_guard = False
        self.known: dict[int, weakref.ref[Any]] = {}
        self.before: list[tuple[Any, Any]] = []
        self.datasets: list[weakref.ref[Any]] = []
        self.generators: list[Any] = []
        self.optimizers: list[weakref.ref[Any]] = []
        self.on_function: Callable[[Any, FunctionClosure, Told], None] = lambda *_: None
        self.on_eager: Callable[[Told, list[tuple[str, Any]], Any], bool] = lambda *_: False
        self.on_validation: Callable[[FunctionClosure | None], None] = lambda closure: None
        self.on_made: Callable[[Any, Any], None] = lambda variable, value: None
        self.untrained = LossFlag()
        self.is_eager_loop = False
        self._scaled = False
        self._copies = Budget(0.01, n_first=3, free_s=2e-4)
        self.eager_told: Told | None = None
        self.told: Told | None = None
        """What the latest function has left, until a step of `fit` has heard of it."""
        self.deciding = False
        self.late: tuple[Told, list[tuple[str, Any]], Any] | None = None
        """Bad gradients that the script is going to ask about itself."""
        self.on_late: Callable[[Told, list[tuple[str, Any]], Any], None] = lambda *_: None

    def install(self) -> None:
        self.patches.replace(backprop.GradientTape, "gradient", self._gradient)
        self.patches.replace(polymorphic_function.Function, "__call__", self._call)
        flags.install(self)
        self.patches.replace(tf.data.Dataset, "from_tensor_slices", self._slices)
        self.patches.replace(tf.data.Dataset, "from_generator", self._generator)
        self.patches.replace(tf.distribute.Strategy, "run", self._run_on_replicas)

    def uninstall(self) -> None:
        self.is_enabled = False
        self.patches.undo()

    # Tapes ------------------------------------------------------------------------------------------------------------

    def _gradient(self, original: Any) -> Any:
        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            attempt = self.attempt
            if attempt is None and (not self.is_enabled or tf.distribute.in_cross_replica_context()):
                return original(tape, target, sources, *args, **kwargs)
            if attempt is not None and tf.executing_eagerly():
                return self._gradient_in_attempt(attempt, original, tape, target, sources, args, kwargs)
            result = original(tape, target, sources, *args, **kwargs)
            self.n_replicas = max(self.n_replicas, tf.distribute.get_strategy().num_replicas_in_sync)
            try:
                if self._note(target, sources, result) and self.recovers:
                    # An update written by hand is made with what is returned here.
                    return tf.nest.map_structure(_zeros, result)
                if self.recovers and self.n_replicas == 1 and not self._scaled and _is_loss(target):
                    return self._limited(result) if _are_variables(sources) else result
            except Exception as error:
                tell("watching a gradient failed", error)
            return result

        gradient.__doc__, gradient.__wrapped__ = original.__doc__, original  # type: ignore[attr-defined]
        return gradient

    def _gradient_in_attempt(
        self, attempt: Attempt, original: Any, tape: Any, target: Any, sources: Any, args: Any, kwargs: Any
    ) -> Any:
        tracer = attempt.tracer
        if attempt.stops_at_loss and _is_loss(target):
            attempt.on_loss(target)
        if tracer is not None:
            tracer.phase, tracer.gradient_frame = "backward", sys._getframe(1)
        try:
            result = original(tape, target, sources, *args, **kwargs)
        finally:
            if tracer is not None:
                tracer.phase, tracer.gradient_frame = "forward", None
        if _is_loss(target):
            attempt.on_gradients(target, _named(sources, result), self._scaled)
            norm = attempt.clip or self.limit
            if norm is not None:
                result = _clipped(result, norm)
        return result

    def _run_on_replicas(self, original: Any) -> Any:
        """Let an attempt run the step of one replica, and nothing of what all of them do together after it."""

        def run(strategy: Any, fn: Any, args: Any = (), kwargs: Any = None, options: Any = None) -> Any:
            attempt = self.attempt
            if attempt is None:
                self.flags.make()  # one for all replicas: inside of the run each would have its own
                return original(strategy, fn, args, kwargs, options)
            fn(*on_replica(args, attempt.replica or 0), **on_replica(kwargs or {}, attempt.replica or 0))
            raise Stop

        return functools.update_wrapper(run, original)

    def limit_gradients(self, norm: float) -> None:
        """Clip gradients by their norm from here on, those of compiled steps too."""
        self.limit = norm
        if self._limit is not None:
            self._limit.assign(norm)

    def _limited(self, gradients: Any) -> Any:
        """Return gradients within the limit; a compiled step reads that from a variable."""
        if all(gradient is None for gradient in tf.nest.flatten(gradients)):
            return gradients
        if tf.executing_eagerly():
            return gradients if self.limit is None else _clipped(gradients, self.limit)
        if self._limit is None:
            with tf.init_scope():
                self._limit = tf.Variable(math.inf if self.limit is None else self.limit, trainable=False)
        limit = self._limit.read_value()
        norm = tf.linalg.global_norm([tf.cast(g, tf.float32) for g in tf.nest.flatten(gradients) if g is not None])
        factor = tf.where(norm > limit, limit / norm, 1.0)
        return tf.nest.map_structure(lambda g: None if g is None else _times(g, factor), gradients)

    def _note(self, target: Any, sources: Any, result: Any) -> bool:
        """Look at a loss and its gradients; returns whether they are known by now to be bad."""
        if not _is_loss(target):
            return False
        if self.on_first_gradient is not None:
            self.on_first_gradient()
            self.on_first_gradient = None
        named = _named(sources, result)
        self._learn(sources)
        if tf.executing_eagerly():
            return self._note_eagerly(target, named)
        if self.current is not None:
            self.training.add(self.current)
        self.flags.note(target, [g for _, g in named])
        if self._decides(getattr(self.current, "python_function", None)):
            self.deciding = True
            self.flags.forgive_gradient()
        return False

    @staticmethod
    def _decides(function: Any = None) -> bool:
        """Whether the script itself looks at its gradients and may skip the step: then the update tells."""
        code = getattr(function, "__code__", None)
        if code is not None:
            return decides_by_gradients(code.co_filename, code.co_firstlineno, takes_gradients)
        frame = calling_frame()
        return frame is not None and decides_by_gradients(frame.file, frame.line, takes_gradients)

    def _note_eagerly(self, target: Any, named: list[tuple[str, Any]]) -> bool:
        loss = to_numpy(target)
        squared = 0.0
        bad = False
        for _, gradient in named:
            array = to_numpy(gradient)
            if array is None or array.size == 0:
                continue
            flat = array.reshape(-1)
            part = float(np.dot(flat, flat)) if flat.dtype.itemsize >= 4 else float((flat.astype("f4") ** 2).sum())
            squared += part
            if not math.isfinite(part) and not all_finite(array):
                bad = True
        norm = math.sqrt(squared) if math.isfinite(squared) else math.inf
        value = float(np.sum(loss)) if loss is not None else math.nan
        self.eager_told = Told(loss is not None and not all_finite(loss), bad, value, norm)
        self.late = None
        if bad and not self.eager_told.loss_bad and self._decides():
            told, self.eager_told = self.eager_told, replace(self.eager_told, gradient_bad=False)
            self.late = (told, named, target)
        return self.on_eager(self.eager_told, named, target) if self.depth == 0 else False

    def _learn(self, sources: Any) -> None:
        for source in tf.nest.flatten(sources):
            variable = getattr(source, "value", source) if not isinstance(source, tf.Variable) else source
            if isinstance(variable, tf.Variable) and len(self.known) < _MAX_KNOWN:
                key = id(variable)
                if key not in self.known:
                    self.known[key] = weakref.ref(variable, functools.partial(self._forget, key))
                    if not tf.executing_eagerly():
                        # The step that is being traced has not run yet.
                        with tf.init_scope():
                            value = variable.read_value()
                            self.on_made(variable, value.numpy())
                        if not self.has_guard:
                            self.before.append((variable, value))

    def _forget(self, key: int, _: Any) -> None:
        self.known.pop(key, None)

    def known_optimizers(self) -> list[Any]:
        return [optimizer for ref in self.optimizers if (optimizer := ref()) is not None]

    def known_variables(self) -> list[Any]:
        return [variable for ref in list(self.known.values()) if (variable := ref()) is not None]

    def known_state(self) -> list[Any]:
        """Return the variables that tapes have asked for, and the optimizers' that hold them."""
        held = [v.value for optimizer in self.known_optimizers() for v in optimizer.variables]
        return [*self.known_variables(), *held]

    # Functions --------------------------------------------------------------------------------------------------------

    def _call(self, original: Any) -> Any:
        def __call__(function: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if self.depth or not self.is_enabled or self.attempt is not None or not tf.executing_eagerly():
                return original(function, *args, **kwargs)
            if self.left_out.samples and function in self.training:
                closure = FunctionClosure(function, args, kwargs, list)
                rows = self.left_out.rows(closure.parts)
                if rows is not None:
                    closure = closure.with_rows(rows)
                    args, kwargs = closure.args, closure.kwargs
            self._copy_before(function)
            if function in self.training or function not in self.seen:
                self.before_function(FunctionClosure(function, args, kwargs, self.known_state))
                self.seen.add(function)
            self.depth, self.current = 1, function
            try:
                result = original(function, *args, **kwargs)
            finally:
                self.depth, self.current = 0, None
            if function in self.training:
                try:
                    self.told = self.flags.read()
                    self.on_function(function, FunctionClosure(function, args, kwargs, self.known_state), self.told)
                except Exception as error:
                    tell("looking at a step failed", error)
                    self.is_enabled = False
            else:
                self._look_at_validation(function, args, kwargs, result)
            return result

        __call__.__wrapped__ = original  # type: ignore[attr-defined]
        return __call__

    def _look_at_validation(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Test the loss of a function that trains nothing: what it returns, or what a loss object in it gave."""
        try:
            loss = loss_in(function, result)
            if is_bad(loss) if loss is not None else self.untrained.take():
                closure = FunctionClosure(function, args, kwargs, self.known_state)
                closure.stage = "validation"
                self.on_validation(closure)
        except Exception as error:
            tell("looking at a validation loss failed", error)
            self.on_validation = lambda closure: None

    def note_loss_object(self, loss: Any) -> None:
        """Take the value of one of Keras' loss objects that was computed outside of `fit`."""
        if not _is_loss(loss):
            return
        if not tf.executing_eagerly():
            if self.depth:
                self.untrained.note(loss)
        elif not self.depth and not could_possibly_record() and is_bad(loss):
            self.on_validation(None)

    def _copy_before(self, function: Any) -> None:
        """Keep the variables of a step that updates them by hand: there is no update to withhold."""
        if self.has_guard or function not in self.training:
            return
        self.before = [(variable, variable.read_value()) for variable in self.known_state()]

    def restore_before(self) -> None:
        for variable, value in self.before:
            variable.assign(value)

    # Optimizers and data ----------------------------------------------------------------------------------------------

    def watch_optimizer(self, base: Any, scaler: Any) -> None:
        """Make the updates of Keras' optimizers conditional."""
        self.patches.replace(base, "apply", self._apply)
        if scaler is not None:
            self.patches.replace(scaler, "apply", self._scaled_apply)
            self.patches.replace(scaler, "scale_loss", self._scale_loss)

    def _apply(self, original: Any) -> Any:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
            attempt = self.attempt
            if all(ref() is not optimizer for ref in self.optimizers):
                self.optimizers.append(weakref.ref(optimizer))
            if attempt is not None:
                if attempt.replica is not None:
                    return None  # one replica's gradients are not the update
                if attempt.tracer is not None:
                    attempt.tracer.phase = "optimizer"
                try:
                    return original(optimizer, grads, trainable_variables)
                finally:
                    if attempt.tracer is not None:
                        attempt.tracer.phase = "forward"
            if not self.is_enabled:
                return original(optimizer, grads, trainable_variables)
            if tf.distribute.has_strategy():
                return original(optimizer, grads, trainable_variables)
            if tf.executing_eagerly():
                self.has_guard = True
                if self.late is not None and self.depth == 0:
                    (self.eager_told, named, target), self.late = self.late, None
                    self.on_late(self.eager_told, named, target)
                told = self.eager_told
                if told is not None and told.is_bad:
                    return None
                if self._scaled and self.limit is not None:
                    grads = self._limited(list(grads))
                return original(optimizer, grads, trainable_variables)
            return self._guarded(original, optimizer, grads, trainable_variables)

        apply.__wrapped__ = original  # type: ignore[attr-defined]
        return apply

    def _guarded(self, original: Any, optimizer: Any, grads: Any, variables: Any) -> Any:
        grads = list(grads)
        if variables is not None:
            variables = list(variables)
            if not optimizer.built:
                with tf.init_scope():
                    optimizer.build(variables)
                optimizer.built = True
        self.has_guard = True
        if self.deciding:
            self.flags.note(None, [tf.convert_to_tensor(g) for g in grads if g is not None])

        if self.recovers and self._scaled:
            grads = self._limited(grads)

        def update() -> Any:
            original(optimizer, grads, variables)
            return tf.constant(True)

        tf.cond(self.flags.is_bad(), lambda: tf.constant(False), update)
        return None

    def _scale_loss(self, original: Any) -> Any:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            self._scaled = True
            return original(optimizer, loss)

        return scale_loss

    def _scaled_apply(self, original: Any) -> Any:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
            if self.attempt is None and self.is_enabled and not tf.executing_eagerly():
                self.flags.forgive_gradient()
            elif self.eager_told is not None and not self.eager_told.loss_bad:
                self.eager_told = None
            return original(optimizer, grads, trainable_variables)

        return apply

    def _slices(self, original: Any) -> Any:
        function = original.__func__ if isinstance(original, staticmethod) else original

        def from_tensor_slices(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            dataset = function(tensors, *args, **kwargs)
            try:
                self.datasets.append(weakref.ref(dataset))
            except TypeError:
                pass
            return dataset

        return staticmethod(from_tensor_slices)

    def _generator(self, original: Any) -> Any:
        function = original.__func__ if isinstance(original, staticmethod) else original

        def from_generator(generator: Any, *args: Any, **kwargs: Any) -> Any:
            code = getattr(generator, "__code__", None)
            if code is not None and is_user_file(code.co_filename):
                self.generators = [generator, *self.generators][:4]
            return function(generator, *args, **kwargs)

        return staticmethod(from_generator)


def _is_loss(target: Any) -> bool:
    dtype = getattr(target, "dtype", None)
    shape = getattr(target, "shape", None)
    if dtype is None or shape is None or not tf.is_tensor(target) or not target.dtype.is_floating:
        return False
    return shape.rank is None or shape.num_elements() in (1, None) or shape.rank <= 1


def _named(sources: Any, result: Any) -> list[tuple[str, Any]]:
    """Return the gradients that there are, dense ones as they are, by their variables' names."""
    found = []
    for source, gradient in zip(tf.nest.flatten(sources), tf.nest.flatten(result)):
        if gradient is None:
            continue
        values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        if values.dtype.is_floating:
            name = str(getattr(source, "path", None) or getattr(source, "name", "tensor")).removesuffix(":0")
            found.append((name, values))
    return found


def _zeros(gradient: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.zeros_like(gradient.values), gradient.indices, gradient.dense_shape)
    return None if gradient is None else tf.zeros_like(gradient)


def _times(gradient: Any, factor: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_times(gradient.values, factor), gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _are_variables(sources: Any) -> bool:
    """Whether gradients are asked for by variables: those by inputs are a penalty's, and update nothing."""
    return all(isinstance(getattr(source, "value", source), tf.Variable) or isinstance(source, tf.Variable)
               for source in tf.nest.flatten(sources))  # fmt: skip


def _clipped(result: Any, norm: float) -> Any:
    flat = tf.nest.flatten(result)
    clipped, _ = tf.clip_by_global_norm(flat, norm)
    return tf.nest.pack_sequence_as(result, clipped)
