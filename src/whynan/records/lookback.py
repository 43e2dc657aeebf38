"""The steps before an incident, run once more to see inside them: gradients and updates by layer, loss terms."""

from dataclasses import dataclass, field
from typing import Any

from whynan.records.numbers import to_jsonable


@dataclass(frozen=True)
class LookBack:
    """One value for each layer and step, or for each loss term and step; None where it was not seen.

    `steps` are the steps' numbers; `layers` the modules' names in their order. `grad_norm` is the L2 norm of a layer's
    gradient, `update_ratio` the norm of its update over that of its weights, `activation` the largest magnitude of what
    it put out; each is indexed [layer][step]. `terms` are the summands of the loss by name.
    """

    steps: tuple[int, ...]
    layers: tuple[str, ...] = ()
    grad_norm: tuple[tuple[float | None, ...], ...] = ()
    update_ratio: tuple[tuple[float | None, ...], ...] = ()
    activation: tuple[tuple[float | None, ...], ...] = ()
    terms: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    note: str | None = None
    """How it was measured, where the steps were not run once more."""

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": list(self.steps),
            "layers": list(self.layers),
            "grad_norm": _rows(self.grad_norm),
            "update_ratio": _rows(self.update_ratio),
            "activation": _rows(self.activation),
            "terms": {name: _row(values) for name, values in self.terms.items()},
            "note": self.note,
        }


def _rows(rows: tuple[tuple[float | None, ...], ...]) -> list[list[Any]]:
    return [_row(row) for row in rows]


def _row(row: tuple[float | None, ...]) -> list[Any]:
    """Round to four digits: a colour and a line of a plot show no more, and the report stays small."""
    return [None if value is None else to_jsonable(float(f"{value:.4g}")) for value in row]
