"""What a review asks of Keras, whatever its backend: the optimizers of compiled models, layers as they run."""

import gc
import math
from typing import Any

import keras
import numpy as np

from whynan.check.graph import Place
from whynan.check.review import OptimizerFacts


def optimizers_of(place: Place | None) -> tuple[OptimizerFacts, ...]:
    """Return the optimizers of the models that the program has compiled, as they are now."""
    found: dict[int, Any] = {}
    for model in gc.get_objects():
        if isinstance(type(model), type) and issubclass(type(model), keras.Model):
            optimizer = getattr(model, "optimizer", None)
            if optimizer is not None:
                found[id(optimizer)] = (optimizer, model)
    return tuple(_facts(optimizer, model, place) for optimizer, model in found.values())


def _facts(optimizer: Any, model: Any, place: Place | None) -> OptimizerFacts:
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
    try:
        return float(keras.ops.convert_to_numpy(rate))
    except Exception:  # a schedule is a function of the step
        return 0.0
