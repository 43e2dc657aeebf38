"""What is known of a TensorFlow run as a whole, and remedies tried on its failing step or on the steps up to it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import math_ops

from whynan.adapters.common.arrays import is_floating, map_structure, to_numpy
from whynan.adapters.common.experiments import ReplayBench, Scale, scale_of, standardised, with_attribute
from whynan.adapters.common.patches import Patches, swapped
from whynan.adapters.common.run import number_of
from whynan.adapters.tensorflow.closure import Closure, FitClosure, LoopClosure
from whynan.adapters.tensorflow.replay import Attempt
from whynan.experiments import Measured
from whynan.records import OptimizerFacts, Precision


def weights(variables: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    return ((name, v.numpy()) for name, v in variables if v.trainable and v.dtype.is_floating)


def optimizer_in(closure: Closure) -> Any:
    """Return the optimizer of Keras' that the step uses; None where it has none."""
    if isinstance(closure, FitClosure):
        return getattr(closure.model, "optimizer", None)
    given = [*getattr(closure, "args", ()), *getattr(closure, "kwargs", {}).values()]
    function = getattr(getattr(closure, "function", None), "python_function", None)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_filled(cell)]
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    reached = [getattr(function, "__globals__", {}).get(name) for name in names]
    owner = getattr(function, "__self__", None)
    held = list(vars(owner).values()) if owner is not None and hasattr(owner, "__dict__") else []
    return next((v for v in [*given, *cells, *reached, *held] if _is_optimizer(v)), None)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_optimizer(value: Any) -> bool:
    return hasattr(value, "apply_gradients") and hasattr(value, "learning_rate")


def learning_rate(optimizer: Any) -> float | None:
    """Return an optimizer's learning rate as it is now; None where it has none that is a number."""
    return number_of(getattr(getattr(optimizer, "inner_optimizer", optimizer), "learning_rate", None))


def optimizer_of(closure: Closure, places: Any) -> OptimizerFacts | None:
    outer = optimizer_in(closure)
    if outer is None:
        return None
    optimizer = getattr(outer, "inner_optimizer", outer)
    zeros: dict[str, int] = {}
    for variable in getattr(optimizer, "variables", ()):
        array = np.asarray(variable.numpy()) if hasattr(variable, "numpy") else None
        if array is not None and array.size > 1:
            key = str(variable.name).split("_")[-1]
            zeros[key] = zeros.get(key, 0) + int((array == 0).sum())
    return OptimizerFacts(
        name=type(optimizer).__name__,
        lr=number_of(getattr(optimizer, "learning_rate", None)),
        eps=number_of(getattr(optimizer, "epsilon", None)),
        weight_decay=number_of(getattr(optimizer, "weight_decay", None)),
        momentum=number_of(getattr(optimizer, "momentum", None)),
        betas=(b1, b2) if (b1 := number_of(getattr(optimizer, "beta_1", None))) is not None
        and (b2 := number_of(getattr(optimizer, "beta_2", None))) is not None else None,
        n_parameters=sum(int(np.prod(v.shape)) for _, v in closure.variables() if v.trainable),
        state_zeros=zeros,
        source=places.made(outer) if places is not None else None,
    )  # fmt: skip


def precision_of(closure: Closure, traced: "Attempt") -> Precision:
    """Return in which precision the step ran: Keras' policy shows as half-precision operations on float32 weights."""
    dtypes = [v.dtype.name for _, v in closure.variables() if v.trainable]
    parameters = dtypes[0] if dtypes else "float32"
    half = None
    if isinstance(closure, FitClosure):
        policy = getattr(getattr(closure.model, "dtype_policy", None), "compute_dtype", None)
        for layer in closure.model._flatten_layers():
            policy = layer.compute_dtype if layer.compute_dtype in _HALF else policy
        half = policy if policy in _HALF else None
    elif traced.tracer is not None:
        slice_ = traced.tracer.graph.slice(traced.starts)
        inputs = slice_.origin.inputs if slice_ is not None and slice_.origin is not None else ()
        half = next((s.dtype for s in inputs if s.dtype in _HALF), None)
    optimizer = optimizer_in(closure)
    scaler = hasattr(optimizer, "dynamic_scale")
    return Precision(
        autocast=half if parameters == "float32" else None,
        parameters=parameters,
        scaler=scaler,
        scale=number_of(getattr(optimizer, "dynamic_scale", None)) if scaler else None,
    )


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
        if isinstance(self.closure, LoopClosure):
            changed = self.closure.mapped(None)
            changed.sources = {file: source}
            return self.step(changed)
        with swapped({file: source}):
            return self.step(self.closure)

    def in_double(self) -> Measured | None:
        """Run a step of half precision in float32; what is float32 already can't be run in float64 by Keras' layers."""
        with in_float32() as (widened, found):
            measured = self.step(self.closure.mapped(widened))
        return measured if found else None

    def _layers(self) -> list[Any]:
        return list(self.closure.model._flatten_layers()) if isinstance(self.closure, FitClosure) else []

    def normalized(self) -> Measured | None:
        spread = self._spread()
        return self._window(change=lambda closure: _standardised(closure, spread)) if spread else None

    def with_eps(self, value: float) -> Measured | None:
        optimizer = optimizer_in(self.closure)
        owners = [owner for owner in (optimizer, *self._layers()) if getattr(owner, "epsilon", None) is not None]
        small = [owner for owner in owners if owner.epsilon < value]
        if not small or self.window.start is None or not self.fails_unchanged():
            return None
        with with_attribute(small, "epsilon", lambda owner: value):
            return self._window()

    def _window(self, **changed: Any) -> Measured | None:
        # The steps of one replica alone are not those that were made.
        return super()._window(**changed) if self.closure.replica is None else None

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


_HALF = ("float16", "bfloat16")


@contextmanager
def in_float32() -> Iterator[tuple[Callable[[Any], Any], list[str]]]:
    """Compute in float32 what a step would compute in half precision.

    Yields what does so to a value, and the list of what was half precision. Weights that are so themselves stay so: a
    step with such weights ends with an exception.
    """
    patches = Patches()
    found: list[str] = []

    def is_half(dtype: Any) -> bool:
        found.extend(names := [name for name in [_name_of(dtype)] if name in _HALF])
        return bool(names)

    def cast(original: Any) -> Any:
        def in_full(x: Any, dtype: Any, name: Any = None) -> Any:
            return original(x, tf.float32 if is_half(dtype) else dtype, name=name)

        return in_full

    def widened(value: Any) -> Any:
        return tf.cast(value, tf.float32) if is_half(getattr(value, "dtype", None)) else value

    for owner in (tf, tf.dtypes, math_ops):
        patches.replace(owner, "cast", cast)
    policies = sys.modules.get("keras.src.dtype_policies.dtype_policy")
    kind: Any = getattr(policies, "DTypePolicy", None)
    known = vars(kind).get("compute_dtype") if kind is not None else None
    try:
        if known is not None:
            kind.compute_dtype = property(lambda own: "float32" if is_half(name := known.fget(own)) else name)
        yield widened, found
    finally:
        if known is not None:
            kind.compute_dtype = known
        patches.undo()


def _name_of(dtype: Any) -> str | None:
    try:
        return str(tf.as_dtype(dtype).name) if dtype is not None else None
    except TypeError:
        return None
