"""Remedies tried on a TensorFlow step: the failing one, or the steps from a saved state up to it."""

from typing import Any

import numpy as np
import tensorflow as tf

from whynan.adapters.common.arrays import is_floating, to_numpy
from whynan.adapters.common.experiments import ReplayBench, Scale, scale_of, standardised, with_attribute
from whynan.adapters.common.swap import swapped
from whynan.adapters.tensorflow.closure import Closure, FitClosure, map_structure
from whynan.adapters.tensorflow.facts import optimizer_in
from whynan.adapters.tensorflow.replay import Attempt
from whynan.experiments.verdict import Measured


class Bench(ReplayBench):
    """What can be tried on the failing step and on the window before it."""

    def attempt(self, clip: float | None = None) -> Attempt:
        return Attempt(clip=clip)

    def trained(self) -> list[Any]:
        return [v for _, v in self.replayer.variables if v.trainable and v.dtype.is_floating]

    def read(self, variable: Any) -> Any:
        return variable.numpy()

    def write(self, variable: Any, array: Any) -> None:
        variable.assign(array)

    def loss_of(self, attempt: Attempt) -> float:
        array = to_numpy(attempt.loss) if attempt.loss is not None else None
        return float(np.sum(array)) if array is not None else 0.0

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        closure = self.closure
        if not isinstance(closure, FitClosure) or not isinstance(closure.data, (tuple, list)) or len(closure.data) < 2:
            return None
        kept = self.kept(rows)
        if kept is None:
            return None
        data = list(closure.data)
        data[1] = map_structure(data[1], lambda v: tf.gather(v, kept))
        return self.step(closure.with_data(tuple(data)))

    def with_source(self, file: str, source: str) -> Measured | None:
        with swapped({file: source}):
            return self.step(self.closure)

    def in_double(self) -> Measured | None:
        """Run a step of half precision in float32; what is float32 already can't be run in float64 by Keras' layers."""
        layers = [layer for layer in self._layers() if layer.compute_dtype in ("float16", "bfloat16")]
        if not layers:
            return None
        with with_attribute(layers, "dtype_policy", lambda layer: "float32"):
            return self.step(self.closure)

    def _layers(self) -> list[Any]:
        return list(self.closure.model._flatten_layers()) if isinstance(self.closure, FitClosure) else []

    def normalized(self) -> Measured | None:
        spread = self._spread()
        return self._window(change=lambda closure: _standardised(closure, spread)) if spread else None

    def with_eps(self, value: float) -> Measured | None:
        optimizer = optimizer_in(self.closure)
        owners = [owner for owner in (optimizer, *self._layers()) if getattr(owner, "epsilon", None) is not None]
        small = [owner for owner in owners if owner.epsilon < value]
        if not small:
            return None
        with with_attribute(small, "epsilon", lambda owner: value if owner is not optimizer else 1e-7):
            return self._window()

    def rewind(self) -> None:
        self.replayer.variables = self.closure.variables()
        start = {id(variable): copy for variable, copy in getattr(self.window.start, "copies", ())}
        for name, variable in self.replayer.variables:
            if id(variable) in start:
                variable.assign(start[id(variable)])
            elif "learning_rate" not in name and variable.dtype.is_numpy_compatible and not variable.trainable:
                variable.assign(np.zeros(variable.shape, variable.dtype.as_numpy_dtype))

    def _spread(self) -> dict[int, Scale]:
        """Return the scale of each floating-point array of data, by its place, over the window."""
        by_place: dict[int, list[Any]] = {}
        for closure in [*self.window.steps, self.closure][-96:]:
            for place, leaf in enumerate(tf.nest.flatten([v for _, v in closure.inputs()])):
                array = to_numpy(leaf) if hasattr(leaf, "shape") else None
                if array is not None and array.ndim >= 1 and is_floating(array) and array.dtype.itemsize >= 4:
                    by_place.setdefault(place, []).append(array)
        scales = {place: scale_of(arrays, by_last=True) for place, arrays in by_place.items()}
        return {place: scale for place, scale in scales.items() if scale is not None}


def _standardised(closure: Closure, spread: dict[int, Scale]) -> Closure:
    """Return the step on data with mean 0 and standard deviation 1."""
    places = iter(range(1_000_000))

    def change(value: Any) -> Any:
        place = next(places)
        if place not in spread:
            return value
        new = standardised(to_numpy(value), spread[place])
        return tf.constant(new) if tf.is_tensor(value) else new

    return closure.mapped(change)
