"""What is known of the run as a whole: its history, its optimizer, its precision."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from whynan.adapters.common.run import Run
from whynan.adapters.tensorflow.closure import Closure, FitClosure
from whynan.adapters.tensorflow.flags import Told
from whynan.records import History, OptimizerFacts, Precision

if TYPE_CHECKING:
    from whynan.adapters.tensorflow.replay import Attempt

Measured = dict[str, tuple[float, float, float]]
_MAX_ELEMENTS = 50_000_000


def measure(variables: list[tuple[str, Any]]) -> Measured:
    """Return of each trainable variable its norm, its largest magnitude and std * sqrt(fan_in)."""
    found: Measured = {}
    total = 0
    for name, variable in variables:
        if not variable.trainable or not variable.dtype.is_floating:
            continue
        array = variable.numpy().astype(np.float64)
        total += array.size
        if array.size == 0 or total > _MAX_ELEMENTS:
            continue
        fan_in = math.prod(array.shape[:-1])
        gain = float(array.std()) * math.sqrt(fan_in) if array.ndim >= 2 and "embedding" not in name else 0.0
        found[name] = (float(np.linalg.norm(array)), float(np.abs(array).max()), gain)
    return found


def history_of(run: Run, variables: list[tuple[str, Any]], start: Measured | None, told: Told | None) -> History:
    """Return the history as causes look at it; weights are those from before the failing step."""
    now = measure(variables)
    first = start or now
    growth = {n: now[n][0] / first[n][0] for n in now if n in first and first[n][0] > 0 and math.isfinite(now[n][0])}
    gains = {name: gain for name, (_, _, gain) in first.items() if gain > 0 and math.isfinite(gain)}
    return History(
        loss=run.history.loss.values()[-4000:],
        grad_norm=run.history.grad_norm.values()[-4000:],
        lr=run.history.lr.values()[-4000:],
        weight_norm_start=_norm(first),
        weight_norm_now=_norm(now),
        weight_abs_max_start=max((m for _, m, _ in first.values()), default=None),
        weight_abs_max_now=max((m for _, m, _ in now.values() if math.isfinite(m)), default=None),
        largest_growth=tuple(sorted(growth.items(), key=lambda item: -item[1])[:8]),
        largest_gain_start=tuple(sorted(gains.items(), key=lambda item: -item[1])[:8]),
    )


def _norm(measured: Measured) -> float | None:
    total = math.sqrt(sum(norm * norm for norm, _, _ in measured.values()))
    return total if measured and math.isfinite(total) else None


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
    return _number(getattr(getattr(optimizer, "inner_optimizer", optimizer), "learning_rate", None))


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
        lr=_number(getattr(optimizer, "learning_rate", None)),
        eps=_number(getattr(optimizer, "epsilon", None)),
        weight_decay=_number(getattr(optimizer, "weight_decay", None)),
        momentum=_number(getattr(optimizer, "momentum", None)),
        betas=(b1, b2) if (b1 := _number(getattr(optimizer, "beta_1", None))) is not None
        and (b2 := _number(getattr(optimizer, "beta_2", None))) is not None else None,
        n_parameters=sum(int(np.prod(v.shape)) for _, v in closure.variables() if v.trainable),
        state_zeros=zeros,
        source=places.made(outer) if places is not None else None,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


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
        scale=_number(getattr(optimizer, "dynamic_scale", None)) if scaler else None,
    )
