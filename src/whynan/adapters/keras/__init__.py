"""What Keras tells of a run: lines that made layers, losses, optimizers; epoch and arrays on the stack; optimizers."""

import functools
import gc
import inspect
import math
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from whynan.adapters.common.arrays import is_array
from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import keyword_line, source_line
from whynan.launch.host import is_user_file
from whynan.records import SourceLine
from whynan.trace import Frame

if TYPE_CHECKING:
    from whynan.check.graph import Place
    from whynan.check.review import OptimizerFacts


class Places:
    """Lines by object. Objects are held weakly."""

    def __init__(self) -> None:
        self._made: weakref.WeakKeyDictionary[Any, Frame] = weakref.WeakKeyDictionary()
        self._compiled: weakref.WeakKeyDictionary[Any, Frame] = weakref.WeakKeyDictionary()
        self._by_path: dict[str, weakref.ref[Any]] = {}

    def install(self, patches: Patches) -> None:
        from keras.src.layers.layer import Layer
        from keras.src.losses.loss import Loss
        from keras.src.optimizers.base_optimizer import BaseOptimizer
        from keras.src.trainers.trainer import Trainer

        for base in (Layer, Loss, BaseOptimizer):
            patches.replace(base, "__init__", self._init)
        patches.replace(Trainer, "compile", self._compile)

    def made(self, thing: Any) -> SourceLine | None:
        """Return the line that made a layer, loss or optimizer; None where no line of the user's did."""
        frame = self._made.get(thing)
        return source_line(frame) if frame is not None else None

    def frame_that_made(self, thing: Any) -> Frame | None:
        """Return the frame of the user's that made a layer, loss or optimizer."""
        return self._made.get(thing)

    def frame_of_compile(self, model: Any, keyword: str = "loss") -> Frame | None:
        """Return the user's frame at `compile`, at the line of the model's loss or another of its arguments."""
        frame = self._compiled.get(model)
        return keyword_line(frame, (keyword,)) if frame is not None else None

    def compiled(self, model: Any, keyword: str = "loss") -> SourceLine | None:
        """Return the line of `compile` that names the model's loss (or another of its arguments)."""
        frame = self._compiled.get(model)
        return source_line(keyword_line(frame, (keyword,))) if frame is not None else None

    def _init(self, original: Any) -> Any:
        places = self

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            frame = _maker(sys._getframe(1), type(self))
            if frame is not None:
                places._made[self] = frame
            original(self, *args, **kwargs)

        return _like(__init__, original)

    def _compile(self, original: Any) -> Any:
        places = self

        def compile(self: Any, *args: Any, **kwargs: Any) -> Any:
            frame = _innermost(sys._getframe(1))
            if frame is not None:
                places._compiled[self] = frame
            return original(self, *args, **kwargs)

        return _like(compile, original)


def _like(replacement: Any, original: Any) -> Any:
    """Return the replacement with the original's name and signature: Keras reads its constructors' arguments."""
    functools.update_wrapper(replacement, original)
    replacement.__signature__ = inspect.signature(original)
    return replacement


def _maker(frame: FrameType | None, kind: type) -> Frame | None:
    """Return the frame that asked for an object of the class: not its own constructors, and not Keras for itself."""
    constructors = {getattr(vars(base).get("__init__"), "__code__", None) for base in kind.__mro__}
    n_keras = 0
    while frame is not None:
        code = frame.f_code
        if is_user_file(code.co_filename) and code not in constructors:
            return Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti)
        if code.co_name != "__init__" and code.co_name != "__call__" and code not in constructors:
            n_keras += 1
        if n_keras > 3:
            return None
        frame = frame.f_back
    return None


def _innermost(frame: FrameType | None) -> Frame | None:
    while frame is not None:
        code = frame.f_code
        if is_user_file(code.co_filename):
            return Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti)
        frame = frame.f_back
    return None


def epoch_of_fit() -> int | None:
    """Return the epoch in which Keras' `fit` on the stack is; None outside of one."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and "trainer" in frame.f_code.co_filename:
            epoch = frame.f_locals.get("epoch")
            return int(epoch) if epoch is not None else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


def fit_arrays() -> list[Any]:
    """Return what the `fit` or `evaluate` on the stack was given: groups of arrays, a row for each sample."""
    groups = (tuple(v for value in pair for v in _leaves(value) if is_array(v)) for pair in _given())
    return [group for group in groups if group]


def fit_data() -> list[Any]:
    """Return the data sets, objects of any kind, that the `fit` or `evaluate` on the stack was given."""
    return [x for x, _ in _given() if x is not None]


def _given() -> Iterator[tuple[Any, Any]]:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("fit", "evaluate") and "trainer" in frame.f_code.co_filename:
            yield frame.f_locals.get("x"), frame.f_locals.get("y")
        frame = frame.f_back  # type: ignore[assignment]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value


def optimizers_of(place: "Place | None") -> "tuple[OptimizerFacts, ...]":
    """Return the optimizers of the models that the program has compiled, as they are now."""
    import keras

    found: dict[int, Any] = {}
    for model in gc.get_objects():
        if isinstance(type(model), type) and issubclass(type(model), keras.Model):
            optimizer = getattr(model, "optimizer", None)
            if optimizer is not None:
                found[id(optimizer)] = (optimizer, model)
    return tuple(_facts(optimizer, model, place) for optimizer, model in found.values())


def _facts(optimizer: Any, model: Any, place: "Place | None") -> "OptimizerFacts":
    import keras
    import numpy as np

    from whynan.check.review import OptimizerFacts

    inner = getattr(optimizer, "inner_optimizer", optimizer)
    weights = [np.asarray(keras.ops.convert_to_numpy(v), dtype=np.float64) for v in model.trainable_variables]
    decay = getattr(inner, "weight_decay", None) or 0.0
    eps = getattr(inner, "epsilon", None)
    return OptimizerFacts(
        kind=type(inner).__name__,
        place=place,
        rates=(_number(inner.learning_rate),),
        eps=(float(eps),) if isinstance(eps, (int, float)) else (),
        # Keras takes the decay of every optimizer apart from the gradient, times the learning rate.
        decays=(float(decay),),
        momentum=float(getattr(inner, "momentum", 0.0) or 0.0),
        dtypes=tuple(sorted({str(v.dtype) for v in model.trainable_variables})),
        weight_norm=math.sqrt(sum(float(np.square(w).sum()) for w in weights)),
        gradient_norm=math.nan,
        n_parameters=0,
    )


def _number(rate: Any) -> float:
    import keras

    try:
        return float(keras.ops.convert_to_numpy(rate))
    except Exception:  # a schedule is a function of the step
        return 0.0
