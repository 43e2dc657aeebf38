"""Synthetic evidence, as a replay would measure it."""

from typing import Any

from whynan.records import Evidence, Op, ReplayResult, SourceLine, Symptom, TensorSummary


def tensor(low: float | None = -1.0, high: float | None = 1.0, shape: tuple[int, ...] = (8, 4), **given: Any) -> Any:
    """Return the summary of a tensor from low to high."""
    given.setdefault("dtype", "float32")
    return TensorSummary(shape, min=low, max=high, **given)


def zeros(n: int = 3, high: float = 1.0, **given: Any) -> Any:
    """Return the summary of a tensor that begins at n exact zeros."""
    return tensor(0.0, high, n_zero=n, **given)


NAN = tensor(None, None, n_nan=1)
INF = tensor(0.0, 1.0, n_posinf=2)


def evidence(op: str | None = None, phase: Any = "forward", *inputs: TensorSummary, **given: Any) -> Evidence:
    """Return evidence of a step that was reproduced; the origin's keywords are its own, all others Evidence's."""
    symptom = given.pop("symptom", Symptom("loss", "loss", "nan", given.pop("step", 40)))
    source = SourceLine("train.py", 57, given.pop("function", "compute_loss"), given.pop("code", "loss = f(x)"))
    parts = {name: given.pop(name) for name in ("module", "module_type", "args") if name in given}
    output = given.pop("output", NAN)
    origin = None
    if op is not None:
        origin = Op(op, f"aten.{op}.default", phase, source, inputs=inputs, output=output, **parts)
    given.setdefault("replay", ReplayResult(True, "re-yield"))
    return Evidence(symptom, origin=origin, **given)
