"""The trace of one replayed step: the ops with non-finite outputs, and who wrote their non-finite inputs.

No framework here: an adapter fills these records, `slicing` walks them.
"""

from dataclasses import dataclass, field
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
