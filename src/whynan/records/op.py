"""An operation of a replayed step and its tensors, as a report speaks of them; never the tensors themselves."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal


def to_jsonable(value: Any) -> Any:
    """Return `value` with every non-finite float replaced by its name, through lists, tuples and dicts."""
    if isinstance(value, float) and not math.isfinite(value):
        return name_of(value)
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return value


def name_of(value: float) -> str:
    """Return "nan", "inf" or "-inf" for a non-finite value, its shortest decimal form for a finite one."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def from_jsonable(value: Any) -> Any:
    """Return the float that a string "nan", "inf" or "-inf" stands for, anything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value


Role = Literal["computed", "batch", "target", "parameter", "buffer", "gradient", "constant", "uninitialized", "state"]
"""Where a tensor came from: an op of this step, the batch, the model, a literal, memory nobody wrote, carried state."""


@dataclass(frozen=True)
class TensorSummary:
    """Facts about one tensor. `min`, `max`, `abs_min_nonzero` are over the finite elements; None if there are none."""

    shape: tuple[int, ...]
    dtype: str
    min: float | None = None
    max: float | None = None
    abs_min_nonzero: float | None = None
    n_zero: int = 0
    n_negative: int = 0
    n_nan: int = 0
    n_posinf: int = 0
    n_neginf: int = 0
    role: Role = "computed"
    name: str | None = None
    n_distinct: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n_nonfinite(self) -> int:
        return self.n_nan + self.n_posinf + self.n_neginf

    @property
    def n_elements(self) -> int:
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def abs_max(self) -> float:
        """Largest magnitude among the finite elements; 0 for a tensor without any."""
        return max(abs(self.min or 0.0), abs(self.max or 0.0))

    def __str__(self) -> str:
        return f"{short_dtype(self.dtype)}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """Return the part of the summary that report.json holds."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "min": self.min,
            "max": self.max,
            "zeros": self.n_zero,
            "nonfinite": self.n_nonfinite,
            "nan": self.n_nan,
            "posinf": self.n_posinf,
            "neginf": self.n_neginf,
            "role": self.role,
            "name": self.name,
        }


def short_dtype(dtype: str) -> str:
    """Return the short form of a dtype's name: float32 -> f32, bfloat16 -> bf16, int64 -> i64."""
    return dtype.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")


Phase = Literal["data", "forward", "backward", "optimizer"]


@dataclass(frozen=True)
class SourceLine:
    """A line of the user's code. `file` is as the user would name it: relative to the working directory if below."""

    file: str | None
    line: int | None
    function: str | None
    code: str | None


@dataclass(frozen=True)
class Op:
    """One operation with its inputs and its output.

    `op` is the plain name ("log", "sqrt", "softmax"; for `phase` backward that of the forward operation whose
    derivative it is), `framework_op` the framework's ("aten.log.default", "SqrtBackward0 (aten.div.Tensor)").
    `args` are the arguments that are not tensors, by name (exponent, dim, eps, ...).
    """

    op: str
    framework_op: str
    phase: Phase
    source: SourceLine
    module: str | None = None
    module_type: str | None = None
    inputs: tuple[TensorSummary, ...] = ()
    output: TensorSummary | None = None
    elements: tuple[tuple[int, ...], ...] = ()
    args: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        data = {
            "op": self.op,
            "framework_op": self.framework_op,
            "phase": self.phase,
            "file": self.source.file,
            "line": self.source.line,
            "function": self.source.function,
            "code": self.source.code,
            "module": self.module,
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "output": self.output.to_json() if self.output else None,
            "elements": [list(element) for element in self.elements],
        }
        return to_jsonable(data)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PathStep:
    """One operation on the path from the origin to the symptom. `value` is "nan", "inf" or "-inf"."""

    op: str
    phase: Phase
    source: SourceLine
    module: str | None
    value: str

    def to_json(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "phase": self.phase,
            "file": self.source.file,
            "line": self.source.line,
            "function": self.source.function,
            "module": self.module,
            "value": self.value,
        }
