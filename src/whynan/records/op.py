"""One framework operation of a replayed step, as a report speaks of it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from whynan.records.numbers import to_jsonable
from whynan.records.tensor import TensorSummary

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
