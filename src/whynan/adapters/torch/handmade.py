"""Batches made by hand: which rows an iteration took where no loop variable holds the batch, and other rows instead.

Read from the loop's source: an index into something long, and what the index expression stands for now. Expressions
are evaluated only where that cannot call the user's code: names, constants, slices, arithmetic.

Rows are known from the indexing operations of the replay, or, where NumPy did it, from the values in the script's
variables. To try the step without a sample its row of the table is overwritten for the length of one attempt: whatever
way the script takes to its batch, it meets the other row there.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.data import loader
from whynan.adapters.torch.data.lineage import find_in_containers, held, resolve, row_of
from whynan.adapters.torch.sources import is_source, storage_key
from whynan.records import Sample
from whynan.snapshot import find_loop, frame_values
from whynan.trace import Gather

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
    back = int(plan.target.own is not None)
    return _by_loader(back, running=True) or _by_source(plan) or _by_gathers(outcome) or _by_loader(back)


def _by_loader(back: int, running: bool = False) -> DrawnRows | None:
    """What the loader that was asked last drew `back` batches ago; `running`: only if its loop is surely under way."""
    for origin in loader.recent(back)[:1]:
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
    body = [node for statement in loop.body for node in ast.walk(statement)]
    # What the iteration itself has made is no data set.
    for name in {node.id for node in body if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}:
        if isinstance(space.get(name), torch.Tensor):
            del space[name]
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


Namespace = dict[str, Any]
_MAX_BATCH = 4096


@dataclass(frozen=True)
class Gathered:
    """A batch whose sample `k` is row `rows[k]` of each table; without tables nothing can be tried."""

    rows: tuple[int, ...]
    tables: tuple[Any, ...]

    @property
    def size(self) -> int:
        return len(self.rows)

    def without(self, positions: list[int]) -> "RowsReplaced":
        """Return the tables' change in which other samples of the batch stand for those at `positions`."""
        bad = {self.rows[position] for position in positions}
        donors = [row for row in self.rows if row not in bad]
        return RowsReplaced(self.tables, sorted(bad), [donors[k % len(donors)] for k in range(len(bad))])


class RowsReplaced:
    """While entered, some rows of some tables hold the values of others."""

    def __init__(self, tables: tuple[Any, ...], rows: list[int], donors: list[int]) -> None:
        self.tables = [_plain(table) for table in tables]
        self.rows = rows
        self.donors = donors
        self._saved: list[Any] = []

    def __enter__(self) -> None:
        for table in self.tables:
            saved = table[self.rows]
            self._saved.append(saved.clone() if isinstance(saved, torch.Tensor) else saved.copy())
            table[self.rows] = table[self.donors]

    def __exit__(self, *exception: object) -> None:
        for table, saved in zip(self.tables, self._saved):
            table[self.rows] = saved
        self._saved = []


def _plain(table: Any) -> Any:
    # Not `detach`: that shares the version counter, and autograd would take the change for one of the script's.
    return table.data if isinstance(table, torch.Tensor) else table


def namespaces(plan: "Plan", outcome: "Outcome") -> list[Namespace]:
    """Return the variables of the replayed loop's function, of its module, and of the frames at the symptom."""
    own = frame_values(plan.target.frame) or {}
    return [own, *outcome.frames, dict(plan.target.frame.f_globals)]


def gathered_batches(plan: "Plan", outcome: "Outcome") -> Iterator[Gathered]:
    """Yield the batches that the replayed step gathered from tables, those made of more tables first."""
    tracer = outcome.tracer
    if tracer is None:
        return
    spaces = namespaces(plan, outcome)
    tables = _tables(spaces)
    views = [value for _, value in held(spaces) if _is_table(value)]
    weights = {storage_key(parameter) for parameter in plan.host.known.parameters()}
    groups: dict[tuple[int, ...], list[Gather]] = {}
    for gather in tracer.trace.gathers:
        if 0 < len(gather.rows) <= _MAX_BATCH and len(gather.rows) < gather.source_rows:
            rows = tuple(row % gather.source_rows for row in gather.rows)
            groups.setdefault(rows, []).append(gather)
    found = []
    for rows, gathers in groups.items():
        sources = []
        for key, gather in {gather.source_key: gather for gather in gathers}.items():
            near = [t for t in tables if storage_key(t) == key and key not in weights and len(t) > max(rows)]
            own = next((v for v in views if storage_key(v) == key and is_source(v, gather)), None)
            sources += near if own is None or key in weights else [own]
        sources = [table for table in sources if not _overlaps(table)]
        if sources:
            found.append(Gathered(rows, tuple(sources)))
    yield from sorted(found, key=lambda batch: -len(batch.tables))
    yield from _by_values(outcome, spaces)


def _tables(spaces: list[Namespace]) -> list[Any]:
    """Return the tensors and arrays in the script's hands that may be tables of samples, one for each memory."""
    found: dict[int | None, Any] = {}
    for _, value in held(spaces):
        if _is_table(value) and storage_key(value) is not None:
            known = found.get(storage_key(value))
            if known is None or len(value) > len(known):
                found[storage_key(value)] = value
    return list(found.values())


def _overlaps(table: Any) -> bool:
    """Whether rows share memory, as the windows of a series do: none can be changed alone."""
    if not isinstance(table, torch.Tensor):
        return False
    return bool(sum((n - 1) * step for n, step in zip(table.shape, table.stride())) + 1 < table.numel())


def _is_table(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and len(value) > 1 and not value.requires_grad and value.layout == torch.strided
    return type(value).__module__ == "numpy" and getattr(value, "ndim", 0) > 0 and value.dtype.kind in "biuf"


def _by_values(outcome: "Outcome", spaces: list[Namespace]) -> Iterator[Gathered]:
    """Yield batches whose rows stand in a larger table with the very same values: NumPy leaves no other trace."""
    sizes = _sizes(outcome)
    tables = _tables(spaces)
    for _, value in held(spaces):
        if not _is_table(value) or len(value) not in sizes:
            continue
        rows = _rows_by_value(value, spaces)
        if rows is not None:
            sources = tuple(t for t in tables if len(t) > len(value) and len(t) > max(rows) and not _frozen(t))
            largest = max((len(table) for table in sources), default=0)
            yield Gathered(rows, tuple(table for table in sources if len(table) == largest))
            return


def _frozen(table: Any) -> bool:
    return not isinstance(table, torch.Tensor) and not table.flags.writeable


def _rows_by_value(batch: Any, spaces: list[Namespace]) -> tuple[int, ...] | None:
    if len(batch) > 512:
        return None
    rows = []
    for k in range(len(batch)):
        found = row_of(batch[k], spaces, min_rows=len(batch) + 1)
        if found is None:
            return None
        rows.append(found[1])
    return tuple(rows)


def _sizes(outcome: "Outcome") -> set[int]:
    """Return the leading sizes of what became non-finite: one of them is the batch's."""
    if outcome.slice is None:
        return set()
    records = ([outcome.slice.origin] if outcome.slice.origin is not None else []) + list(outcome.slice.path)
    shapes = [record.output.shape for record in records if record.output is not None]
    return {shape[0] for shape in shapes if shape and shape[0] > 1}


def index_of_sample(plan: "Plan", outcome: "Outcome", position: int, size: int, part: Any) -> int | None:
    """Return which row or element of the script's data a sample of the batch is; `part` is a field of the batch."""
    spaces = namespaces(plan, outcome)
    tracer = outcome.tracer
    if tracer is not None:
        for gather in tracer.trace.gathers:
            if len(gather.rows) == size < gather.source_rows:
                return int(gather.rows[position] % gather.source_rows)
    if isinstance(part, (list, tuple)):
        found = find_in_containers(part[position], spaces, min_length=len(part) + 1)
        return found[1] if found is not None else None
    if not _is_table(part) or len(part) != size:
        return None
    place = _row_by_address(part, position, _tables(spaces))
    if place is not None:
        return place
    found = row_of(part[position], spaces, min_rows=size + 1)
    return found[1] if found is not None else None


def _row_by_address(part: Any, position: int, tables: list[Any]) -> int | None:
    """Return the row of the table that the batch is a view of."""
    if not isinstance(part, torch.Tensor):
        return None
    for table in tables:
        if not isinstance(table, torch.Tensor) or len(table) <= len(part) or storage_key(table) != storage_key(part):
            continue
        if table.stride(0) == part.stride(0) > 0:
            offset = part.storage_offset() + position * part.stride(0) - table.storage_offset()
            return int(offset // table.stride(0))
    return None


def list_batches(plan: "Plan", outcome: "Outcome") -> Iterator[tuple[int, ...]]:
    """Yield, for lists in the script's hands, the places which their elements have in a longer list."""
    sizes = _sizes(outcome)
    spaces = namespaces(plan, outcome)
    for _, value in held(spaces):
        if not isinstance(value, (list, tuple)) or len(value) not in sizes:
            continue
        places = [find_in_containers(item, spaces, min_length=len(value) + 1) for item in value]
        if all(place is not None for place in places):
            yield tuple(place[1] for place in places if place is not None)
