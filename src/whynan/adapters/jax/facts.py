"""What is known of the run as a whole: its parameters, its optimizer, its precision."""

from typing import Any

import numpy as np

from whynan.adapters.common.arrays import is_floating, to_numpy
from whynan.adapters.jax.closure import Call
from whynan.adapters.jax.replay import Traced
from whynan.records import OptimizerFacts, Precision

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
