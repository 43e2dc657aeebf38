"""The operation graph of one step, free of any framework: what was computed from what, on which line; and ranges."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["op", "constant", "parameter", "data", "state", "random", "gradient"]
"""What a node is: an operation, or a leaf. `state` is what the model carries along (a running mean), `gradient` what a
backward pass hands to a hand-written derivative."""


@dataclass(frozen=True)
class Place:
    file: str
    line: int
    function: str
    code: str = ""


@dataclass(frozen=True)
class Measured:
    """What one run of the node has shown, over its finite elements; `n_nonfinite` counts the others."""

    lo: float
    hi: float
    least: float
    """The smallest absolute value."""
    n_nonfinite: int = 0

    @property
    def magnitude(self) -> float:
        return max(abs(self.lo), abs(self.hi))


@dataclass
class Node:
    """One value of the step. `inputs` are numbers of earlier nodes; plain numbers are constant nodes of their own."""

    index: int
    op: str
    inputs: tuple[int, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    kind: Kind = "op"
    measured: Measured | None = None
    stack: tuple[Place, ...] = ()
    module: str | None = None
    differentiable: bool = True
    """Whether automatic differentiation is to go through this operation."""
    phase: str = "forward"
    custom: str | None = None
    """The hand-written derivative that this operation is part of."""
    in_place: bool = False
    name: str | None = None
    """A leaf's name, where it has one."""

    @property
    def place(self) -> Place | None:
        return self.stack[0] if self.stack else None

    @property
    def size(self) -> int:
        product = 1
        for n in self.shape:
            product *= n
        return product


@dataclass(frozen=True)
class Asked:
    """A number that the program read out of the graph to decide something, before node `before` was made."""

    node: int
    before: int
    place: Place | None


@dataclass
class Graph:
    """Nodes in the order in which they were made; `roots` are what gradients were asked of, or what is kept."""

    nodes: list[Node] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def add(self, op: str, **about: Any) -> Node:
        node = Node(len(self.nodes), op, **about)
        self.nodes.append(node)
        return node

    def constant(self, value: float | bool) -> Node:
        number = float(value)
        return self.add(
            "constant",
            kind="constant",
            attrs={"value": number},
            dtype="bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float64",
            measured=Measured(number, number, abs(number))
            if number == number and abs(number) != float("inf")
            else None,
        )

    def ancestors(self, index: int) -> set[int]:
        """Return the nodes that `index` was made from, itself included."""
        seen: set[int] = set()
        todo = [index]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen.add(current)
                todo.extend(self.nodes[current].inputs)
        return seen

    def relevant(self) -> set[int]:
        """Return the nodes that reach a root or belong to a hand-written derivative."""
        found: set[int] = set()
        todo = [
            *self.roots,
            *(node.index for node in self.nodes if node.custom is not None and node.phase == "backward"),
        ]
        while todo:
            current = todo.pop()
            if current not in found:
                found.add(current)
                todo.extend(self.nodes[current].inputs)
        return found


LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
    "complex64": 3.4028234663852886e38,
    "complex128": 1.7976931348623157e308,
}
SMALLEST = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 2.0**-1074,
    "complex64": 2.0**-149,
    "complex128": 2.0**-1074,
}
"""The smallest positive number, a subnormal one."""


def is_float(dtype: str) -> bool:
    return dtype in LARGEST


def is_half(dtype: str) -> bool:
    """Whether sums and products of ordinary size leave the type: float16, not bfloat16."""
    return dtype == "float16"


def largest(dtype: str) -> float:
    """Return the largest finite number; of types that are not floating point, infinity."""
    return LARGEST.get(dtype, math.inf)


def exp_limit(dtype: str) -> float:
    """Return the largest x whose exp is finite."""
    return math.log(LARGEST[dtype]) if dtype in LARGEST else math.inf


def number(x: float) -> str:
    """Return a number in at most four digits."""
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    if x == int(x) and abs(x) < 1e5:
        return str(int(x))
    return f"{x:.4g}"


def plural(n: int, what: str, many: str | None = None) -> str:
    return f"{n} {what if n == 1 else many or what + 's'}"


INF = math.inf


@dataclass(frozen=True)
class Range:
    """lo <= x <= hi for every finite element x.

    `soft`: an end is an estimate of what training may reach and no bound: a saturating function is taken to saturate.
    `nonzero`: no element is 0. `masked`: elements may be -inf on purpose. `empty`: there may be no element at all.
    `varies`: depends on data or parameters; else each run gives the same. `steep`: grows like an exponential.
    `grad`: a derivative flows back through it.
    """

    lo: float = -INF
    hi: float = INF
    nonzero: bool = False
    integer: bool = False
    soft: bool = False
    masked: bool = False
    empty: bool = False
    varies: bool = True
    steep: bool = False
    grad: bool = False

    @property
    def may_be_zero(self) -> bool:
        return not self.nonzero and self.lo <= 0 <= self.hi

    @property
    def magnitude(self) -> float:
        return max(abs(self.lo), abs(self.hi))

    def within(self, lo: float, hi: float) -> "Range":
        """Return the part of the range between two bounds; outside of it a range of one point at the nearer bound."""
        a, b = max(self.lo, lo), min(self.hi, hi)
        if a > b:
            a = b = lo if self.hi < lo else hi
        return replace(self, lo=a, hi=b, nonzero=self.nonzero or a > 0 or b < 0)

    def holds(self, x: float) -> bool:
        """Whether a concrete value may be an element; infinities and NaN are not the range's business."""
        return not math.isfinite(x) or (self.lo <= x <= self.hi and not (x == 0 and self.nonzero))


def of(lo: float, hi: float, *operands: Range, **about: bool) -> Range:
    """Return a range between two bounds that inherits from operands what every element-wise function hands on."""
    lo, hi = (-INF if math.isnan(lo) else lo), (INF if math.isnan(hi) else hi)
    told = {
        "soft": any(r.soft for r in operands),
        "empty": any(r.empty for r in operands),
        "varies": any(r.varies for r in operands),
        "steep": any(r.steep for r in operands),
        "grad": any(r.grad for r in operands),
        "nonzero": lo > 0 or hi < 0,
    } | about
    return Range(lo, hi, **told)


def join(*ranges: Range) -> Range:
    return of(
        min(r.lo for r in ranges),
        max(r.hi for r in ranges),
        *ranges,
        nonzero=all(r.nonzero for r in ranges),
        integer=all(r.integer for r in ranges),
        masked=any(r.masked for r in ranges),
        empty=all(r.empty for r in ranges),
    )


def times(a: float, b: float) -> float:
    """Return a product in which 0 stands for exactly nothing: 0 * inf is 0, as for the end of an interval."""
    return 0.0 if a == 0 or b == 0 else a * b


def monotone(function: Callable[[float], float], x: Range, **about: bool) -> Range:
    """Return the range of an increasing function over x, a hair wider for the rounding of the real one."""
    return of(widen_down(safe(function, x.lo)), widen_up(safe(function, x.hi)), x, **about)


def safe(function: Callable[[float], float], x: float) -> float:
    """Apply a function; beyond what Python's floats hold the answer is infinity."""
    try:
        return function(x)
    except OverflowError:
        return INF
    except ValueError:
        return math.nan


def widen_down(x: float, share: float = 1e-6) -> float:
    return x - abs(x) * share if math.isfinite(x) else x


def widen_up(x: float, share: float = 1e-6) -> float:
    return x + abs(x) * share if math.isfinite(x) else x
