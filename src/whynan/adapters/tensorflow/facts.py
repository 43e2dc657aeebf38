"""What is known of the run as a whole: its weights, its optimizer, its precision."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from whynan.adapters.common.run import number_of
from whynan.adapters.tensorflow.closure import Closure, FitClosure
from whynan.records import OptimizerFacts, Precision

if TYPE_CHECKING:
    from whynan.adapters.tensorflow.replay import Attempt


def weights(variables: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the trainable variables' numbers by name."""
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
    """Return the optimizer's facts."""
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
            policy = layer.compute_dtype if layer.compute_dtype in ("float16", "bfloat16") else policy
        half = policy if policy in ("float16", "bfloat16") else None
    optimizer = optimizer_in(closure)
    scaler = hasattr(optimizer, "dynamic_scale")
    return Precision(
        autocast=half if parameters == "float32" else None,
        parameters=parameters,
        scaler=scaler,
        scale=number_of(getattr(optimizer, "dynamic_scale", None)) if scaler else None,
    )
