"""A few numbers that a step leaves in a variable: whether its loss and gradients were finite, and how large.

They are written inside the step, also where it is a graph, and read by the host when the step has returned.
"""

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_LOSS_BAD, _GRADIENT_BAD = 0, 1


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
        loss_bad, gradient_bad, loss, squared = self.variable.numpy().tolist()
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
        """Return the flag and clear it."""
        if self._variable is None or not float(self._variable.numpy()):
            return False
        self._variable.assign(0.0)
        return True


def _is_bad(tensors: list[Any]) -> Any:
    finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors]))
    return tf.cast(tf.logical_not(finite), tf.float32)
