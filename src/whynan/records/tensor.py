"""What is kept of a tensor: its shape, dtype, range and counts; never the tensor."""

from dataclasses import dataclass, field
from typing import Any, Literal

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
