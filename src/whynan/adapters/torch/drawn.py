"""Which rows an iteration took where no loop variable holds the batch: `x = X[idx]`, `data[i] for i in order`.

Read from the loop's source: an index into something long, and what the index expression stands for now. Expressions
are evaluated only where that cannot call the user's code: names, constants, slices, arithmetic.
"""

import ast
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.data import loader
from whynan.adapters.torch.data.indices import resolve
from whynan.records import Sample
from whynan.snapshot.carried import find_loop
from whynan.snapshot.python_state import frame_values

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome
    from whynan.adapters.torch.plan import Plan

_MAX_ROWS = 100_000
_SAFE = (
    ast.Name, ast.Constant, ast.Subscript, ast.Slice, ast.BinOp, ast.UnaryOp, ast.Load, ast.operator, ast.unaryop,
    ast.Attribute, ast.Expression, ast.Tuple,
)  # fmt: skip


@dataclass(frozen=True)
class DrawnRows:
    """Rows (or dataset indices) in the order of the batch. `dataset` is set where a loader drew them."""

    rows: tuple[Any, ...]
    dataset: Any = None

    def sample(self, position: int, why: str) -> Sample:
        row = self.rows[position]
        if self.dataset is not None:
            resolved = resolve(self.dataset, row)
            index = resolved.index if isinstance(resolved.index, int) else None
            return Sample(position, index, resolved.path, f"{why}; {resolved.detail}" if resolved.detail else why)
        return Sample(position, int(row), None, why)


def drawn_rows(plan: "Plan", outcome: "Outcome") -> DrawnRows | None:
    """Return what the iteration drew: by the source of the loop, by the trace's gathers, or by the loader."""
    return _by_loader(running=True) or _by_source(plan) or _by_gathers(outcome) or _by_loader()


def _by_loader(running: bool = False) -> DrawnRows | None:
    """What the loader that was asked last has drawn; `running`: only if its loop is surely under way."""
    for origin in loader.recent()[:1]:
        if origin.indices and not (running and origin.exhausted):
            return DrawnRows(origin.indices, origin.dataset)
    return None


def _by_gathers(outcome: "Outcome") -> DrawnRows | None:
    """The rows that most gathers of floating-point data took."""
    if outcome.tracer is None:
        return None
    found = [g for g in outcome.tracer.trace.gathers if g.source_rows > len(g.rows) >= 1 and g.frame is not None]
    by_index = [g for g in found if g.kind in ("index", "index_select")] or found
    counts = Counter(g.rows for g in by_index)
    return DrawnRows(counts.most_common(1)[0][0]) if counts else None


def _by_source(plan: "Plan") -> DrawnRows | None:
    loop = find_loop(plan.target.site)
    if loop is None:
        return None
    space = {**plan.target.frame.f_globals, **(frame_values(plan.target.frame) or {})}
    for node in ast.walk(loop):
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)) and len(node.generators) == 1:
            found = _by_comprehension(node, space)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            found = _by_subscript(node, space)
        else:
            continue
        if found is not None:
            return DrawnRows(found)
    return None


def _by_comprehension(node: ast.ListComp | ast.GeneratorExp, space: dict[str, Any]) -> tuple[int, ...] | None:
    """`data[i] for i in order[a:b]`"""
    generator = node.generators[0]
    if not isinstance(generator.target, ast.Name) or generator.ifs:
        return None
    for inner in ast.walk(node.elt):
        if (
            isinstance(inner, ast.Subscript)
            and isinstance(inner.slice, ast.Name)
            and inner.slice.id == generator.target.id
        ):
            source = _value_of(inner.value, space)
            rows = _as_rows(_value_of(generator.iter, space))
            if rows is not None and _holds(source, rows):
                return rows
    return None


def _by_subscript(node: ast.Subscript, space: dict[str, Any]) -> tuple[int, ...] | None:
    source = _value_of(node.value, space)
    if source is None or isinstance(source, dict) or isinstance(node.slice, ast.Constant):
        return None  # the same row in each iteration is no draw
    index = _value_of(node.slice, space)
    if isinstance(index, slice):
        n = _length(source)
        rows: tuple[int, ...] | None = tuple(range(*index.indices(n))) if n else None
        # A slice of the shuffled order is not the data; what is indexed by it comes later in the source.
        return rows if rows is not None and _is_data(source) and 0 < len(rows) < (n or 0) <= _MAX_ROWS else None
    rows = _as_rows(index)
    return rows if rows is not None and _is_data(source) and _holds(source, rows) else None


def _is_data(source: Any) -> bool:
    if isinstance(source, torch.Tensor):
        return bool(source.dim() > 1 or source.is_floating_point())
    dtype = getattr(source, "dtype", None)
    if dtype is not None:
        return bool(getattr(source, "ndim", 0) > 1 or getattr(dtype, "kind", "") == "f")
    if isinstance(source, (list, tuple)):
        return len(source) > 0 and not isinstance(source[0], (int, float, str))
    return bool(hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str))


def _holds(source: Any, rows: tuple[int, ...]) -> bool:
    n = _length(source)
    return n is not None and n > len(rows) and all(-n <= row < n for row in rows)


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


def _as_rows(index: Any) -> tuple[int, ...] | None:
    if isinstance(index, bool) or index is None:
        return None
    if isinstance(index, int):
        return (index,)
    if hasattr(index, "tolist"):
        kind = str(getattr(index, "dtype", ""))
        index = index.tolist() if "int" in kind else None
        if isinstance(index, int):
            return (index,)
    if isinstance(index, (list, tuple, range)) and 0 < len(index) <= _MAX_ROWS:
        return tuple(index) if all(isinstance(row, int) and not isinstance(row, bool) for row in index) else None
    return None


def _value_of(node: ast.expr, space: dict[str, Any]) -> Any:
    """Return what an expression stands for; None where evaluating it could run the user's code, or fails."""
    if not all(isinstance(inner, _SAFE) for inner in ast.walk(node)):
        return None
    if isinstance(node, ast.Slice):
        parts = [_value_of(part, space) if part is not None else None for part in (node.lower, node.upper, node.step)]
        return slice(*parts)
    try:
        return eval(compile(ast.Expression(node), "<index>", "eval"), {"__builtins__": {}}, space)
    except Exception:
        return None
