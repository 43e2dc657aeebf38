"""The trace of one replayed step, and the way back in it from a symptom to its origin. No framework here.

An adapter fills the records: the ops with non-finite outputs, and who wrote their non-finite inputs. The origin is the
first op whose output is non-finite although its inputs are finite. The walk starts at the symptom, so what never
reaches it is never blamed. Two rules go beyond "first":

* An infinity that the program put there by name (a mask's -inf) is no birth. Where such a one becomes NaN, that op
  is the origin: a softmax over a row that is masked throughout.
* So it is for a module's buffer of -inf, where the op subtracts: x - max(x) over a row of which nothing is allowed.
* An infinity that arithmetic made is the origin even if only a later op turned it into NaN: 0 * log(0).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any, Literal

from whynan.records import Phase, TensorSummary

Kind = Literal["nan", "inf", "-inf"]


@dataclass(frozen=True)
class Frame:
    """One frame of the user's own code at the time of an op. `code` and `lasti` give the exact sub-expression."""

    file: str
    line: int
    function: str
    code: CodeType = field(repr=False, compare=False)
    lasti: int = field(repr=False, compare=False)


@dataclass(frozen=True)
class Leaf:
    """A non-finite tensor that no op of the trace wrote. `key` is its storage, by which the adapter knows its owner."""

    key: int
    offset: int
    summary: TensorSummary
    constant: bool = False
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Edge:
    """A non-finite input of an op: which argument, what stood in it, and the op (or leaf) that wrote it.

    `place` is the storage and the address of the input's element, by which the parent knows which of its own elements
    is meant. `target` is the number of the op's own sampled element that this input bears on, None if on any.
    """

    argument: int
    kind: Kind
    parent: int | None
    leaf: Leaf | None = None
    element: tuple[int, ...] = ()
    place: tuple[int, int] | None = None
    target: int | None = None


@dataclass
class OpRecord:
    """One op with a non-finite output. `stack` is innermost first and holds the user's frames only.

    A few of its non-finite elements are sampled: `samples` gives their numbers by place, `kinds` what stands there.
    """

    index: int
    name: str
    framework_op: str
    phase: Phase
    stack: tuple[Frame, ...]
    kind: Kind
    edges: tuple[Edge, ...] = ()
    module: str | None = None
    module_type: str | None = None
    node: str | None = None
    sequence: int | None = None
    custom: str | None = None
    literal: bool = False
    uninitialized: bool = False
    inputs: tuple[TensorSummary, ...] = ()
    output: TensorSummary | None = None
    elements: tuple[tuple[int, ...], ...] = ()
    samples: dict[tuple[int, int], int] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()
    args: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ForwardOp:
    """What a backward op needs to know of the forward op whose derivative it computes."""

    name: str
    stack: tuple[Frame, ...]
    module: str | None
    module_type: str | None
    index: int


@dataclass(frozen=True)
class ScalarOp:
    """An op with a one-element float output: the stuff that loss terms are made of. `operands` are scalars' ids."""

    index: int
    name: str
    stack: tuple[Frame, ...]
    operands: tuple[int, ...]
    value: float
    key: tuple[int, int]


@dataclass
class Trace:
    """One replay's non-finite ops by index, its forward ops by autograd sequence number, its scalar ops."""

    records: dict[int, OpRecord] = field(default_factory=dict)
    forward: dict[int, ForwardOp] = field(default_factory=dict)
    scalars: dict[int, ScalarOp] = field(default_factory=dict)
    n_ops: int = 0
    n_failed: int = 0
    failure: str | None = None
    gathers: list["Gather"] = field(default_factory=list)
    loss_calls: list["LossCall"] = field(default_factory=list)


@dataclass(frozen=True)
class Gather:
    """Rows picked from a larger tensor: `rows[i]` of the source became row i. How hand-made batches are drawn."""

    index: int
    kind: str
    key: int
    source_key: int
    rows: tuple[int, ...]
    frame: Frame | None
    source_rows: int
    row_stride: int
    source_offset: int = 0
    """Where the source begins in its storage: it may be a view of a longer series."""


@dataclass(frozen=True)
class LossCall:
    """A call of one of the framework's loss functions with the summaries of its tensor inputs."""

    name: str
    index: int
    inputs: tuple[TensorSummary, ...]
    facts: dict[str, Any] = field(default_factory=dict)


_LIMIT = 500_000
"""A walk that is cut short would blame whatever it has met. An epoch of single updates has this many."""


@dataclass(frozen=True)
class Slice:
    """The backward slice of one symptom.

    `origin` is the op to blame, or None where a `leaf` (a tensor that was non-finite before the step) is. `path` runs
    from the origin to the symptom, origin included. `intended` tells that the origin got a literal infinity.
    """

    origin: OpRecord | None
    leaf: Leaf | None
    path: tuple[OpRecord, ...]
    intended: bool = False


@dataclass(frozen=True)
class _Part:
    """Some elements of a record: the sampled one of that number, or all that are NaN, or all that are infinite."""

    index: int
    number: int | None
    kind: Literal["nan", "inf"]


@dataclass(frozen=True)
class _Candidate:
    record: OpRecord | None
    leaf: Leaf | None
    via: _Part | None
    order: tuple[int, int]
    intended: bool = False


def find_origin(
    trace: Trace,
    start: Sequence[Edge],
    is_intended: Callable[[Leaf], bool] = lambda leaf: False,
    is_buffer: Callable[[Leaf], bool] = lambda leaf: False,
) -> Slice | None:
    """Walk back from the symptom's edges; return None where they lead nowhere.

    `is_intended` tells of a leaf that its infinities are a mask's, `is_buffer` that a module holds it.
    """
    came_from: dict[_Part, _Part | None] = {}
    todo: deque[_Part] = deque()
    candidates: list[_Candidate] = []

    def follow(edge: Edge, part: _Part | None) -> None:
        record = trace.records.get(edge.parent) if edge.parent is not None else None
        parent = _part_of(record, edge) if record is not None else None
        if parent is not None and parent not in came_from:
            came_from[parent] = part
            todo.append(parent)

    for edge in start:
        if edge.leaf is not None:
            candidates.append(_Candidate(None, edge.leaf, None, (-1, 0), is_intended(edge.leaf)))
        follow(edge, None)
    while todo and len(came_from) < _LIMIT:
        part = todo.popleft()
        record = trace.records[part.index]
        edges, kind = _edges_of(record, part)
        candidates += _candidates(record, part, edges, kind, is_intended)
        for edge in edges:
            follow(edge, part)
    blamed = _choose(candidates, is_buffer)
    if blamed is None:
        return None
    return _slice(blamed, trace, came_from)


def _part_of(record: OpRecord, edge: Edge) -> _Part:
    """Which of the record's elements an edge leads to: a sampled one, else all of the kind that was read."""
    number = record.samples.get(edge.place) if edge.place is not None else None
    return _Part(record.index, number, "nan" if edge.kind == "nan" else "inf")


def _edges_of(record: OpRecord, part: _Part) -> tuple[list[Edge], Kind]:
    """Return the edges that bear on a part of a record, and what stands there.

    A NaN is made by NaN inputs where there are any; its infinite inputs are then innocent.
    """
    kind: Kind = part.kind
    if part.number is not None:
        numbers = {part.number}
        kind = record.kinds[part.number]
    else:
        alike = {n for n, other in enumerate(record.kinds) if (other == "nan") == (part.kind == "nan")}
        numbers = alike or set(range(len(record.kinds)))
    edges = [edge for edge in record.edges if edge.target is None or edge.target in numbers]
    if kind == "nan" and any(edge.kind == "nan" for edge in edges):
        edges = [edge for edge in edges if edge.kind == "nan"]
    return edges, kind


def _candidates(
    record: OpRecord, part: _Part, edges: list[Edge], kind: Kind, is_intended: Callable[[Leaf], bool]
) -> list[_Candidate]:
    found = []
    if not edges:
        found.append(_Candidate(record, None, part, (0, record.index), record.literal))
    for edge in edges:
        if edge.leaf is not None:
            intended = edge.kind != "nan" and (edge.leaf.constant or is_intended(edge.leaf))
            found.append(_Candidate(None, edge.leaf, part, (-1, record.index), intended))
    if kind == "nan" and edges and all(edge.kind != "nan" for edge in edges):
        # An invalid operation on infinities: to blame only where all of them were put there by name.
        found.append(_Candidate(record, None, part, (1, record.index)))
    return found


_TAKES_MASKS = ("softmax", "logsumexp", "attention", "masked_fill", "where", "logcumsumexp", "maximum", "amax")
"""Ops whose inputs are masked with -inf on purpose; any other that makes a NaN of one got a bad value, not a mask."""
_SUBTRACTS = ("sub", "sub_", "rsub")


def _choose(candidates: list[_Candidate], is_buffer: Callable[[Leaf], bool]) -> _Candidate | None:
    first_invalid = min((c for c in candidates if c.order[0] == 1), key=lambda c: c.order[1], default=None)
    if first_invalid is not None and first_invalid.record is not None:
        name = first_invalid.record.name
        if not any(word in name for word in _TAKES_MASKS):

            def is_named(leaf: Leaf) -> bool:
                return leaf.constant or (name in _SUBTRACTS and is_buffer(leaf))

            candidates = [c if c.leaf is None or is_named(c.leaf) else replace(c, intended=False) for c in candidates]
    births = [c for c in candidates if c.order[0] <= 0 and not c.intended]
    if births:
        leaves = [c for c in births if c.leaf is not None]
        # What was non-finite before the step comes before anything that the step did.
        return min(leaves or births, key=lambda c: c.order[1])
    invalid = [c for c in candidates if c.order[0] == 1]
    if invalid:
        first = min(invalid, key=lambda c: c.order[1])
        return _Candidate(first.record, None, first.via, first.order, True)
    return min(candidates, key=lambda c: c.order[1]) if candidates else None


def _slice(blamed: _Candidate, trace: Trace, came_from: dict[_Part, _Part | None]) -> Slice:
    path: list[OpRecord] = []
    part = blamed.via
    while part is not None and len(path) < _LIMIT:
        record = trace.records[part.index]
        if not path or path[-1] is not record:
            path.append(record)
        part = came_from.get(part)
    return Slice(blamed.record, blamed.leaf, tuple(path), blamed.intended)
