"""The operations of one replayed step as a graph of values, filled by an adapter and sliced from the symptom back.

Every operation is noted, so that it is known what a value was made from; arrays are kept only of those that are not
finite. A value is known by a number that its adapter gives it.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from whynan.adapters.common.arrays import (
    Part,
    all_finite,
    broadcast_element,
    is_floating,
    kind_at,
    kind_of,
    nonfinite_elements,
    summarize,
)
from whynan.adapters.common.positions import ELEMENTWISE, SPOKEN
from whynan.records import Phase, Role, SourceLine
from whynan.trace import Edge, Frame, Leaf, OpRecord, Slice, Trace, find_origin

_SAMPLED = 6
_MAX_STARTS = 12


@dataclass(frozen=True)
class Node:
    """One operation. `name` is the plain one, that of the forward operation for a derivative's; `forward` its index."""

    index: int
    name: str
    framework_op: str
    phase: Phase
    stack: tuple[Frame, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    module: str | None = None
    module_type: str | None = None
    made: SourceLine | None = None
    forward: int | None = None
    custom: str | None = None
    loss: str | None = None
    called: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """What is known of a value that came into the step: a parameter, a batch, a constant."""

    role: Role
    name: str | None
    array: Any = None


class Graph:
    """Operations in the order in which they ran."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.producer: dict[int, int] = {}
        self.values: dict[int, Value] = {}
        self.bad: dict[int, Any] = {}
        """Arrays of the non-finite values."""
        self.kept: dict[int, dict[int, Any]] = {}
        """By index of a node with non-finite output: the arrays of its inputs, by place."""
        self.from_parameters: set[int] = set()
        self.from_batch: set[int] = set()
        self.n_elements: dict[int, int] = {}
        self.scalars: dict[int, float] = {}
        self.batch: Sequence[Part] = ()
        """Parts of the batch that an operation may have been given as other objects with the same numbers."""
        self.gradients: set[int] = set()
        """Values that a backward pass has made."""
        self._sliced: tuple[Any, dict[tuple[int, ...], Slice | None], Trace] | None = None

    # Filling ----------------------------------------------------------------------------------------------------------

    def give(self, value: int, role: Role, name: str | None, array: Any) -> None:
        """Say what a value that no operation has made is."""
        self.values[value] = Value(role, name, array)
        if role in ("parameter", "state"):
            self.from_parameters.add(value)
        elif role in ("batch", "target"):
            self.from_batch.add(value)
        if array is not None and not all_finite(array):
            self.bad[value] = array

    def add(self, node: Node, arrays: Callable[[], Sequence[Any]], outputs: Sequence[Any]) -> None:
        """Note an operation that has just run: `arrays()` are its inputs' arrays, `outputs` those of its outputs."""
        self.nodes.append(node)
        is_bad = False
        for value, array in zip(node.outputs, outputs, strict=True):
            self.producer[value] = node.index
            if array is None:
                continue
            self.n_elements[value] = int(array.size)
            if array.size == 1 and is_floating(array):
                self.scalars[value] = float(array.reshape(-1)[0].real)
            if any(value in self.bad for value in node.inputs):
                array = _unhidden(array)
            if not all_finite(array):
                self.bad[value] = array
                is_bad = True
        if any(value in self.from_parameters for value in node.inputs):
            self.from_parameters.update(node.outputs)
        if any(value in self.from_batch for value in node.inputs):
            self.from_batch.update(node.outputs)
        if is_bad:
            kept = self.kept[node.index] = dict(enumerate(arrays()))
            for place, value in enumerate(node.inputs):
                array = kept.get(place)
                if value not in self.producer and value not in self.bad and array is not None and not all_finite(array):
                    self.bad[value] = array

    # Asking -----------------------------------------------------------------------------------------------------------

    def slice(self, starts: Iterable[int]) -> Slice | None:
        """Walk back from the symptom's values to the origin; what is asked again is known."""
        state = (len(self.values), len(self.bad), len(self.gradients), id(self.batch), tuple(map(id, self.nodes)))
        if self._sliced is None or self._sliced[0] != state:
            records = {index: self._record(self.nodes[index]) for index in self.kept}
            self._sliced = state, {}, Trace(records, n_ops=len(self.nodes))
        _, known, trace = self._sliced
        asked = tuple(starts)
        if asked not in known:
            known[asked] = self._walked(asked, trace)
        return known[asked]

    def _walked(self, starts: tuple[int, ...], trace: Trace) -> Slice | None:
        edges = []
        for value in list(starts)[:_MAX_STARTS]:
            array = self.bad.get(value)
            if array is None:
                continue
            edges += [self._edge(0, value, array, element, None) for element in nonfinite_elements(array, 2)]
        found = find_origin(trace, edges, _is_mask) if edges else None
        return self._undefined(found, trace) if found is not None and found.leaf is not None else found

    def _undefined(self, found: Slice, trace: Trace) -> Slice:
        """A library's own NaN for what is not defined, `std` of one item: the function is to blame, not the number."""
        leaf = found.leaf
        if leaf is None or not leaf.constant or not leaf.summary.n_nan:
            return found
        for place, record in enumerate(found.path):
            node = self.nodes[record.index]
            if node.name == "where" and node.called in SPOKEN:
                near = [trace.records.get(n.index) for n in self.ancestors(node.inputs)]
                born = next((r for r in near if r is not None and not r.edges), record)
                path = (record,) if born is record else (born, record)
                return Slice(born, None, (*path, *found.path[place + 1 :]))
        return found

    def ancestors(self, value_or_values: Iterable[int], limit: int = 40) -> list[Node]:
        """Return the nodes that the values were made by, nearest first."""
        todo, seen = deque(value_or_values), set[int]()
        found: list[Node] = []
        while todo and len(found) < limit:
            index = self.producer.get(todo.popleft())
            if index is None or index in seen:
                continue
            seen.add(index)
            found.append(self.nodes[index])
            todo.extend(self.nodes[index].inputs)
        return found

    def descendants(self, index: int) -> list[Node]:
        """Return the nodes of the same step that use what a node has made, directly or not."""
        made = set(self.nodes[index].outputs)
        found = []
        for node in self.nodes[index + 1 :]:
            if any(value in made for value in node.inputs):
                made.update(node.outputs)
                found.append(node)
        return found

    def role_of(self, value: int, array: Any) -> tuple[Role, str | None]:
        known = self.values.get(value)
        if known is not None:
            return known.role, known.name
        if value in self.gradients:
            return "gradient", None
        if value in self.producer:
            return ("batch" if value in self.from_batch and value not in self.from_parameters else "computed"), None
        for part in self.batch:
            if part.array.shape == array.shape and array.ndim and _same_numbers(part.array, array):
                return part.role, part.name
        # Nobody has said what it is: a number in the program's text, or one that it holds on to.
        return "constant", None

    # Records ----------------------------------------------------------------------------------------------------------

    def _record(self, node: Node) -> OpRecord:
        value = next(value for value in node.outputs if value in self.bad)
        array = self.bad[value]
        elements = nonfinite_elements(array, _SAMPLED)
        kinds = tuple(kind_at(array, element) or "nan" for element in elements)
        edges: list[Edge] = []
        arrays = self.kept[node.index]
        for place, given in enumerate(node.inputs):
            source = self.bad.get(given, arrays.get(place))
            if source is not None and is_floating(source) and not all_finite(source):
                edges += self._edges(place, given, source, node.name in ELEMENTWISE, elements)
        return OpRecord(
            index=node.index,
            name=node.name,
            framework_op=node.framework_op,
            phase=node.phase,
            stack=node.stack,
            kind=kind_of(array) or "nan",
            edges=tuple(edges),
            module=node.module,
            module_type=node.module_type,
            custom=node.custom,
            literal=node.name in ("fill", "full", "broadcast_in_dim", "constant", "iota") and not node.inputs,
            inputs=tuple(self._summary(place, v, arrays) for place, v in enumerate(node.inputs)
                         if arrays.get(place) is not None),
            output=summarize(array),
            elements=elements,
            samples={self._place(value, array, element): n for n, element in enumerate(elements)},
            kinds=kinds,
            args=node.args,
        )  # fmt: skip

    def _summary(self, place: int, value: int, arrays: dict[int, Any]) -> Any:
        role, name = self.role_of(value, arrays[place])
        return summarize(arrays[place], role, name)

    def _edges(
        self, place: int, value: int, array: Any, is_elementwise: bool, elements: Sequence[tuple[int, ...]]
    ) -> list[Edge]:
        if not is_elementwise:
            return [self._edge(place, value, array, element, None) for element in nonfinite_elements(array, 2)]
        found = []
        for number, element in enumerate(elements):
            source = broadcast_element(element, array.shape)
            if source is not None and kind_at(array, source) is not None:
                found.append(self._edge(place, value, array, source, number))
        return found

    def _edge(self, place: int, value: int, array: Any, element: tuple[int, ...], target: int | None) -> Edge:
        kind = kind_at(array, element) or "nan"
        parent = self.producer.get(value)
        leaf = None
        if parent is None:
            role, name = self.role_of(value, array)
            leaf = Leaf(value, 0, summarize(array, role, name), constant=role == "constant", shape=tuple(array.shape))
        return Edge(place, kind, parent, leaf, element, self._place(value, array, element), target)

    @staticmethod
    def _place(value: int, array: Any, element: tuple[int, ...]) -> tuple[int, int]:
        flat = 0
        for index, size in zip(element, array.shape, strict=True):
            flat = flat * int(size) + index
        return value, flat


def _same_numbers(one: Any, other: Any) -> bool:
    """Whether arrays hold the same numbers, NaN equal to NaN."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _unhidden(array: Any) -> Any:
    """Return NaN where a result of non-finite inputs is the largest number there is: TensorFlow's and MindSpore's
    largest of a pool of NaN on the CPU. What it overflows later is an effect."""
    np = sys.modules["numpy"]
    if array.dtype.kind != "f" or array.size == 0:
        return array
    hidden = np.abs(array) == np.finfo(array.dtype).max
    return np.where(hidden, np.nan, array) if hidden.any() else array


def _is_mask(leaf: Leaf) -> bool:
    """An infinity that came with the step and not from it: all of one sign and no NaN beside it is a mask."""
    summary = leaf.summary
    return summary.n_nan == 0 and summary.n_neginf > 0 and summary.n_posinf == 0
