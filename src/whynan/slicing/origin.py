"""From a symptom back to its origin: the first op whose output is non-finite although its inputs are finite.

The walk starts at the symptom, so what never reaches it is never blamed. Two rules go beyond "first":

* An infinity that the program put there by name (a mask's -inf) is no birth. Where such a one becomes NaN, that op
  is the origin: a softmax over a row that is masked throughout.
* An infinity that arithmetic made is the origin even if only a later op turned it into NaN: 0 * log(0).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from whynan.trace.graph import Edge, Leaf, OpRecord, Trace

_LIMIT = 50_000


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
    leaf_argument: int | None = None


@dataclass(frozen=True)
class _Candidate:
    record: OpRecord | None
    leaf: Leaf | None
    via: int | None
    order: tuple[int, int]
    intended: bool = False


def find_origin(
    trace: Trace, start: Sequence[Edge], is_intended: Callable[[Leaf], bool] = lambda leaf: False
) -> Slice | None:
    """Walk back from the symptom's edges; return None where they lead nowhere."""
    came_from: dict[int, int | None] = {}
    todo: deque[int] = deque()
    candidates: list[_Candidate] = []
    for edge in start:
        if edge.parent is not None:
            if edge.parent not in came_from:
                came_from[edge.parent] = None
                todo.append(edge.parent)
        elif edge.leaf is not None:
            candidates.append(_Candidate(None, edge.leaf, None, (-1, 0), is_intended(edge.leaf)))
    while todo and len(came_from) < _LIMIT:
        index = todo.popleft()
        record = trace.records.get(index)
        if record is None:
            continue
        candidates += _candidates(record, trace, is_intended)
        for edge in record.edges:
            if edge.parent is not None and edge.parent not in came_from and _is_followed(record, edge):
                came_from[edge.parent] = index
                todo.append(edge.parent)
    blamed = _choose(candidates)
    if blamed is None:
        return None
    return _slice(blamed, trace, came_from)


def _is_followed(record: OpRecord, edge: Edge) -> bool:
    """A NaN is made by NaN inputs where there are any; its infinite inputs are then innocent."""
    if record.kind == "nan" and any(other.kind == "nan" for other in record.edges):
        return edge.kind == "nan"
    return True


def _candidates(record: OpRecord, trace: Trace, is_intended: Callable[[Leaf], bool]) -> list[_Candidate]:
    found = []
    if not record.edges:
        intended = record.literal
        found.append(_Candidate(record, None, record.index, (0, record.index), intended))
    for edge in record.edges:
        if edge.leaf is not None and _is_followed(record, edge):
            intended = edge.kind != "nan" and (edge.leaf.constant or is_intended(edge.leaf))
            found.append(_Candidate(None, edge.leaf, record.index, (-1, record.index), intended))
    if record.kind == "nan" and record.edges and all(edge.kind != "nan" for edge in record.edges):
        # An invalid operation on infinities: to blame only where all of them were put there by name.
        found.append(_Candidate(record, None, record.index, (1, record.index)))
    return found


_TAKES_MASKS = ("softmax", "logsumexp", "attention", "masked_fill", "where", "logcumsumexp", "maximum", "amax")
"""Ops whose inputs are masked with -inf on purpose; any other that makes a NaN of one got a bad value, not a mask."""


def _choose(candidates: list[_Candidate]) -> _Candidate | None:
    first_invalid = min((c for c in candidates if c.order[0] == 1), key=lambda c: c.order[1], default=None)
    if first_invalid is not None and first_invalid.record is not None:
        name = first_invalid.record.name
        if not any(word in name for word in _TAKES_MASKS):
            candidates = [
                replace(c, intended=False) if c.leaf is not None and not c.leaf.constant else c for c in candidates
            ]
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


def _slice(blamed: _Candidate, trace: Trace, came_from: dict[int, int | None]) -> Slice:
    path: list[OpRecord] = []
    index = blamed.via
    while index is not None and len(path) < _LIMIT:
        path.append(trace.records[index])
        index = came_from.get(index)
    return Slice(blamed.record, blamed.leaf, tuple(path), blamed.intended)
