"""What is known of the run as a whole: its history, its optimizer, its precision."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from whynan.adapters.common.run import Run
from whynan.adapters.mindspore.arrays import array_of, is_floating
from whynan.records import History, OptimizerFacts, Precision

if TYPE_CHECKING:
    from whynan.adapters.mindspore.watch import Watch

Measured = dict[str, tuple[float, float, float]]
_MAX_ELEMENTS = 50_000_000


def measure(parameters: list[Any]) -> Measured:
    """Return of each parameter its norm, its largest magnitude and std * sqrt(fan_in)."""
    found: Measured = {}
    total = 0
    for parameter in parameters:
        if not is_floating(parameter):
            continue
        array = array_of(parameter).astype(np.float64)
        total += array.size
        if array.size == 0 or total > _MAX_ELEMENTS:
            continue
        name = str(parameter.name)
        # Kernels are laid out (out, in, ...): all but the first dimension feed one output.
        fan_in = math.prod(array.shape[1:])
        gain = float(array.std()) * math.sqrt(fan_in) if array.ndim >= 2 and "embedding" not in name else 0.0
        found[name] = (float(np.linalg.norm(array)), float(np.abs(array).max()), gain)
    return found


def history_of(run: Run, parameters: list[Any], start: Measured | None) -> History:
    """Return the history as causes look at it; weights are those from before the failing step."""
    now = measure(parameters)
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


def learning_rate(optimizer: Any) -> float | None:
    """Return an optimizer's learning rate, the largest of its groups; None where it follows a schedule of its own."""
    try:
        groups = getattr(optimizer, "param_groups", None)
        if groups:
            return max(float(group["lr"]) for group in groups)
        if getattr(optimizer, "dynamic_lr", False):
            return float(array_of(optimizer.get_lr()).max()) if not getattr(optimizer, "is_group_lr", False) else None
        rate = optimizer.learning_rate
        rates = rate if isinstance(rate, (list, tuple)) else [rate]
        return max(float(array_of(r)) for r in rates)
    except Exception:
        return None


def optimizer_of(watch: "Watch") -> OptimizerFacts | None:
    """Return the facts of the optimizer that updates most."""
    optimizers = watch.known_optimizers()
    if not optimizers:
        return None
    optimizer = max(optimizers, key=lambda o: sum(p.size for p in o.parameters))
    groups = getattr(optimizer, "param_groups", None)
    first = groups[0] if groups else {}
    zeros: dict[str, int] = {}
    trained = {id(p) for p in optimizer.parameters}
    for parameter in optimizer.get_parameters():
        if id(parameter) not in trained and parameter.size > 1 and is_floating(parameter):
            key = str(parameter.name).split(".")[0]
            zeros[key] = zeros.get(key, 0) + int((array_of(parameter) == 0).sum())
    betas = first.get("betas")
    b1, b2 = _number(getattr(optimizer, "beta1", None)), _number(getattr(optimizer, "beta2", None))
    return OptimizerFacts(
        name=type(optimizer).__name__,
        lr=learning_rate(optimizer),
        eps=_number(first.get("eps", getattr(optimizer, "eps", None))),
        weight_decay=_number(first.get("weight_decay", getattr(optimizer, "weight_decay", None))),
        momentum=_number(first.get("momentum", getattr(optimizer, "momentum", None))),
        betas=(float(betas[0]), float(betas[1])) if betas else (b1, b2) if b1 is not None and b2 is not None else None,
        n_parameters=sum(int(p.size) for p in optimizer.parameters),
        state_zeros=zeros,
        source=watch.places.made(optimizer),
    )


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def precision_of(watch: "Watch", ops: list[str]) -> Precision:
    """Return in which precision the step ran; `ops` are the dtypes that its operations made."""
    dtypes = [str(p.dtype).lower() for p in watch.trained()]
    parameters = dtypes[0] if dtypes else "float32"
    half = next((d for d in ops if d in ("float16", "bfloat16")), None)
    return Precision(
        autocast=half if parameters == "float32" else None,
        parameters=parameters,
        scaler=watch.unscaled is not None,
    )
