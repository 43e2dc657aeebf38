"""What tells that a step or a loss is not finite.

`Flags` are numbers that a step leaves in a variable: they are written inside it, also where it is a graph, and read by
the host when it has returned. Losses that nothing is trained with are what a `tf.function` without a tape returns, what
a loss object gives, what an eager loop reads as a number, `float(loss)` or `loss.numpy()`. What counts is what the
script calls a loss: metrics may be NaN for good reasons (a class that does not occur).
"""

import ast
import functools
import inspect
import math
import re
import sys
import textwrap
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.common.loops import is_bad_loss, speaks_of_loss

if TYPE_CHECKING:
    from whynan.adapters.tensorflow.watch import Watch

_LOSS_BAD, _GRADIENT_BAD = 0, 1
_LOSS = re.compile(r"loss|cost|nll|mse\b|rmse|entropy|bce|elbo|objective|deviance|likelihood|error", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What one step has left. `grad_norm` is that of the gradients as the tape gave them."""

    loss_bad: bool
    gradient_bad: bool
    loss: float
    grad_norm: float

    @property
    def is_bad(self) -> bool:
        return self.loss_bad or self.gradient_bad


class Flags:
    """One variable of four numbers, made at first use outside of any graph."""

    def __init__(self) -> None:
        self._variable: Any = None

    @property
    def variable(self) -> Any:
        self.make()
        return self._variable

    def make(self) -> None:
        """Make the variable, where there is none yet."""
        if self._variable is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._variable = tf.Variable([0.0, 0.0, 0.0, 0.0], trainable=False, name="whynan")

    def note(self, loss: Any, gradients: list[Any]) -> None:
        """Note, as part of the step, what a tape's loss and gradients are. Bad flags stay until they are cleared."""
        before = self.variable.read_value()
        number, loss_bad = before[2], before[_LOSS_BAD]
        if loss is not None:
            number = tf.reduce_sum(tf.cast(tf.stop_gradient(loss), tf.float32))
            loss_bad = tf.maximum(loss_bad, _is_bad([loss]))
        squared, gradient_bad = before[3], before[_GRADIENT_BAD]
        if gradients:
            squared = tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, tf.float32))) for g in gradients])
            # A sum of squares may overflow for finite gradients: then each of them is looked at.
            bad = tf.cond(tf.math.is_finite(squared), lambda: tf.constant(0.0), lambda: _is_bad(gradients))
            gradient_bad = tf.maximum(gradient_bad, bad)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # What one replica notes must not undo what another has noted since it read.
            self.variable.scatter_update(tf.IndexedSlices(tf.stack([number, squared]), [2, 3]))
            self.variable.assign_add(tf.stack([loss_bad, gradient_bad, 0.0, 0.0]))
        else:
            self.variable.assign(tf.stack([loss_bad, gradient_bad, number, squared]))

    def forgive_gradient(self) -> None:
        """The gradients' own scaler looks after them."""
        self.variable.assign(self.variable.read_value() * [1.0, 0.0, 1.0, 1.0])

    def is_bad(self) -> Any:
        """Return, as a tensor of the step, whether the update has to be withheld."""
        values = self.variable.read_value()
        return tf.logical_or(values[_LOSS_BAD] > 0, values[_GRADIENT_BAD] > 0)

    def read(self) -> Told:
        # As the operation itself: what a variable does around it takes as long again, in every step.
        values = tf.raw_ops.ReadVariableOp(resource=self.variable.handle, dtype=tf.float32)
        loss_bad, gradient_bad, loss, squared = values.numpy().tolist()
        norm = math.sqrt(squared) if squared >= 0 and math.isfinite(squared) else math.inf
        return Told(loss_bad > 0, gradient_bad > 0, loss, norm)

    def clear(self) -> None:
        self.variable.assign([0.0, 0.0, 0.0, 0.0])


class LossFlag:
    """Whether a loss object has given a non-finite value inside of a function since it was last asked."""

    def __init__(self) -> None:
        self._variable: Any = None

    def note(self, loss: Any) -> None:
        if self._variable is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._variable = tf.Variable(0.0, trainable=False, name="whynan_loss")
        self._variable.assign(tf.maximum(self._variable.read_value(), _is_bad([loss])))

    def take(self) -> bool:
        if self._variable is None or not float(self._variable.numpy()):
            return False
        self._variable.assign(0.0)
        return True


def _is_bad(tensors: list[Any]) -> Any:
    finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors]))
    return tf.cast(tf.logical_not(finite), tf.float32)


def loss_in(function: Any, result: Any) -> Any:
    """Return the first number among what a function returned that the script calls a loss; None if there is none."""
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    for place in _places_of_losses(function.python_function):
        value = values[place] if place < len(values) else None
        if value is not None and tf.is_tensor(value) and value.dtype.is_floating and value.shape.num_elements() == 1:
            return value
    return None


def is_bad(loss: Any) -> bool:
    array = to_numpy(loss)
    return array is not None and not all_finite(array)


@functools.lru_cache(maxsize=256)
def _places_of_losses(function: Any) -> tuple[int, ...]:
    """Return which of the values that a function returns are losses, by its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    if not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return ()
    definition = tree.body[0]
    found: list[int] = []
    for node in ast.walk(definition):
        if isinstance(node, ast.Return) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            named = [k for k, part in enumerate(parts) if _LOSS.search(ast.unparse(part))]
            if not named and len(parts) == 1 and _LOSS.search(definition.name):
                named = [0]
            found += named
    return tuple(dict.fromkeys(found))


def install(watch: "Watch") -> None:
    """Look at the numbers that eager tensors are read as."""
    for name in ("__float__", "numpy"):
        watch.patches.replace(ops._EagerTensorBase, name, lambda original: _reading(original, watch))


def _reading(original: Any, watch: "Watch") -> Any:
    def read(tensor: Any) -> Any:
        value = original(tensor)
        if isinstance(value, (float, np.floating)) and _is_of_interest(float(value), watch, sys._getframe(1)):
            if watch.attempt is not None:
                watch.attempt.on_loss(tensor)
            else:
                watch.on_validation(None)
        return value

    read.__doc__, read.__wrapped__ = original.__doc__, original  # type: ignore[attr-defined]
    return read


def _is_of_interest(value: float, watch: "Watch", frame: FrameType) -> bool:
    """Whether a number that was read is a loss to be looked at: in a replay each, in the run one that is not finite."""
    if watch.attempt is not None:
        return watch.attempt.stops_at_loss and speaks_of_loss(frame)
    return watch.is_enabled and not watch.depth and is_bad_loss(value, frame)
