"""What is known of the run as a whole: its history, its optimizer, its precision."""

import math
from typing import Any

import numpy as np

from whynan.adapters.common.arrays import is_floating, to_numpy
from whynan.adapters.common.run import Run
from whynan.adapters.jax.closure import Call
from whynan.adapters.jax.replay import Traced
from whynan.records import History, OptimizerFacts, Precision

_MAX_ELEMENTS = 50_000_000


def parameters(call: Call) -> dict[str, Any]:
    """Return the call's parameters by name: what it carries from step to step, or by its first argument's name."""
    names = call.names()
    batch = {id(part.array) for part in call.parts()}
    found = {}
    total = 0
    for i in call.dynamic():
        array = to_numpy(call.leaves[i])
        if array is None or array.ndim == 0 or not is_floating(array) or id(array) in batch:
            continue
        is_state = i in call.carried if call.carried else call.is_state(i, names)
        total += array.size
        if is_state and "opt" not in names[i] and total < _MAX_ELEMENTS:
            found[names[i]] = array
    return found


def history_of(run: Run, call: Call, first: Call | None) -> History:
    """Return the history as causes look at it."""
    now = {name: np.asarray(a, np.float64) for name, a in parameters(call).items()}
    start = {name: np.asarray(a, np.float64) for name, a in parameters(first or call).items()}
    growth = {
        n: float(np.linalg.norm(now[n]) / np.linalg.norm(start[n]))
        for n in now
        if n in start and np.linalg.norm(start[n]) > 0 and np.isfinite(now[n]).all()
    }
    gains = {n: float(a.std()) * math.sqrt(math.prod(a.shape[:-1])) for n, a in start.items()
             if a.ndim >= 2 and "embed" not in n.lower()}  # fmt: skip
    return History(
        loss=run.history.loss.values()[-4000:],
        grad_norm=run.history.grad_norm.values()[-4000:],
        lr=run.history.lr.values()[-4000:],
        weight_norm_start=_norm(start),
        weight_norm_now=_norm(now),
        weight_abs_max_start=max((float(np.abs(a).max()) for a in start.values() if a.size), default=None),
        weight_abs_max_now=max((float(np.abs(a).max()) for a in now.values() if a.size), default=None),
        largest_growth=tuple(sorted(growth.items(), key=lambda item: -item[1])[:8]),
        largest_gain_start=tuple(sorted(gains.items(), key=lambda item: -item[1])[:8]),
    )


def _norm(arrays: dict[str, Any]) -> float | None:
    total = math.sqrt(sum(float((a * a).sum()) for a in arrays.values()))
    return total if arrays and math.isfinite(total) else None


def optimizer_of(call: Call, keras: Any) -> OptimizerFacts | None:
    """Return the optimizer's facts where Keras has one, or where optax keeps its settings in the state."""
    if keras is not None:
        return keras.optimizer_facts()  # type: ignore[no-any-return]
    names = call.names()
    state = [name for name in names if "opt" in name.split("[")[0] or ".mu" in name or ".nu" in name]
    if not state:
        return None
    adaptive = any(".nu" in name for name in state)
    lr = next((float(np.asarray(call.leaves[i])) for i, name in enumerate(names) if "learning_rate" in name), None)
    return OptimizerFacts(name="adam" if adaptive else "optax", lr=lr)


def precision_of(call: Call, traced: Traced) -> Precision:
    dtypes = [str(a.dtype) for a in parameters(call).values()]
    own = dtypes[0] if dtypes else "float32"
    half = None
    found = traced.interpreter.graph.slice(traced.starts)
    if found is not None and found.origin is not None:
        half = next((s.dtype for s in found.origin.inputs if s.dtype in ("float16", "bfloat16")), None)
    return Precision(autocast=half if own == "float32" else None, parameters=own)
