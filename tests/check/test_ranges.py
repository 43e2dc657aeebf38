"""Ranges are sound: whatever an operation gives for operands in their ranges lies in the range that is computed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.check.graph import Graph, Measured, Range
from whynan.check.transfer import analyse

UNARY = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "abs": np.abs,
    "neg": np.negative,
    "square": np.square,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "log_sigmoid_forward": lambda x: -np.logaddexp(0, -x),
    "sin": np.sin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sign": np.sign,
    "floor": np.floor,
    "cumsum": np.cumsum,
    "sum": np.sum,
    "mean": np.mean,
    "amax": np.max,
    "amin": np.min,
    "prod": np.prod,
    "var": lambda x: np.var(x, ddof=1),
    "std": lambda x: np.std(x, ddof=1),
    "linalg_vector_norm": lambda x: np.sqrt(np.sum(x * x)),
    "logsumexp": lambda x: np.log(np.sum(np.exp(x))),
    "_softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    "_log_softmax": lambda x: x - x.max() - np.log(np.exp(x - x.max()).sum()),
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "rsub": lambda a, b: b - a,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "atan2": np.arctan2,
    "hypot": np.hypot,
    "logaddexp": np.logaddexp,
    "fmod": np.fmod,
    "remainder": np.mod,
    "gt": np.greater,
    "le": np.less_equal,
    "eq": np.equal,
    "mm": lambda a, b: a @ b,
}
REDUCED = frozenset(["sum", "mean", "amax", "amin", "prod", "var", "std", "linalg_vector_norm", "logsumexp"])
numbers = st.floats(-60, 60, allow_nan=False).map(lambda x: round(x, 3))
vectors = st.lists(numbers, min_size=2, max_size=6)


def leaf(graph: Graph, values: np.ndarray, slack: float) -> int:
    """A leaf whose range is that of the values, wider by some slack on both sides."""
    lo, hi = float(values.min()) - slack, float(values.max()) + slack
    least = 0.0 if lo <= 0 <= hi else min(abs(lo), abs(hi))
    node = graph.add("leaf", kind="data", shape=values.shape, dtype="float64", measured=Measured(lo, hi, least))
    return node.index


def check(found: Range, values: np.ndarray) -> None:
    for value in np.asarray(values, dtype=np.float64).reshape(-1):
        slack = 1e-5 * max(abs(value), 1)
        if math.isfinite(value):
            assert found.lo - slack <= value <= found.hi + slack, (found, value)


@pytest.mark.parametrize("op", UNARY)
@settings(max_examples=60, deadline=None)
@given(vectors, st.sampled_from([0.0, 1.5]))
def test_functions_of_one_operand(op: str, values: list[float], slack: float) -> None:
    x = np.array(values)
    graph = Graph()
    a = leaf(graph, x, slack)
    with np.errstate(all="ignore"):
        out = np.asarray(UNARY[op](x))
    attrs = {"dim": 0} if "softmax" in op else {}
    graph.add(op, inputs=(a,), attrs=attrs, shape=out.shape, dtype="float64")
    check(analyse(graph, growth=None).values[-1], out)


@pytest.mark.parametrize("op", BINARY)
@settings(max_examples=60, deadline=None)
@given(vectors, st.data())
def test_functions_of_two_operands(op: str, values: list[float], data: st.DataObject) -> None:
    x = np.array(values)
    y = np.array(data.draw(st.lists(numbers, min_size=len(values), max_size=len(values))))
    if op == "mm":
        x, y = x[None, :], y[:, None]
    graph = Graph()
    a, b = leaf(graph, x, 0.0), leaf(graph, y, 0.5)
    with np.errstate(all="ignore"):
        out = np.asarray(BINARY[op](x, y))
    graph.add(op, inputs=(a, b), shape=out.shape, dtype="bool" if out.dtype == bool else "float64")
    check(analyse(graph, growth=None).values[-1], out)


@settings(max_examples=100, deadline=None)
@given(vectors, st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.7, 2.0, 3.0]))
def test_powers(values: list[float], exponent: float) -> None:
    x = np.array(values)
    graph = Graph()
    a, p = leaf(graph, x, 0.0), graph.constant(exponent).index
    with np.errstate(all="ignore"):
        out = x**exponent
    graph.add("pow", inputs=(a, p), shape=out.shape, dtype="float64")
    check(analyse(graph, growth=None).values[-1], out)


@settings(max_examples=100, deadline=None)
@given(vectors, numbers, numbers)
def test_where_takes_what_its_condition_leaves(values: list[float], bound: float, other: float) -> None:
    x = np.array(values)
    graph = Graph()
    a = leaf(graph, x, 0.0)
    limit, instead = graph.constant(bound).index, graph.constant(other).index
    condition = graph.add("gt", inputs=(a, limit), shape=x.shape, dtype="bool").index
    graph.add("where", inputs=(condition, a, instead), shape=x.shape, dtype="float64")
    found = analyse(graph, growth=None).values[-1]
    check(found, np.where(x > bound, x, other))
    if bound >= 0 and other > 0:
        assert not found.may_be_zero


@settings(max_examples=60, deadline=None)
@given(vectors)
def test_a_maximum_taken_from_its_own_tensor_leaves_nothing_positive(values: list[float]) -> None:
    x = np.array(values)
    graph = Graph()
    a = leaf(graph, x, 1.0)
    m = graph.add("amax", inputs=(a,), attrs={"dim": [0], "keepdim": True}, shape=(1,), dtype="float64").index
    d = graph.add("sub", inputs=(a, m), shape=x.shape, dtype="float64").index
    e = graph.add("exp", inputs=(d,), shape=x.shape, dtype="float64").index
    s = graph.add("sum", inputs=(e,), attrs={"dim": [0], "keepdim": True}, shape=(1,), dtype="float64").index
    graph.add("div", inputs=(e, s), shape=x.shape, dtype="float64")
    values_ = analyse(graph, growth=None).values
    assert values_[d].hi == 0
    assert values_[e].hi == 1
    assert not values_[s].may_be_zero
    check(values_[-1], np.exp(x - x.max()) / np.exp(x - x.max()).sum())


def test_the_difference_of_a_tensor_and_itself_laid_out_otherwise_is_no_zero() -> None:
    graph = Graph()
    a = leaf(graph, np.array([0.0, 3.0]), 0.0)
    rows = graph.add("unsqueeze", inputs=(a,), attrs={"dim": 0}, shape=(1, 2), dtype="float64").index
    columns = graph.add("unsqueeze", inputs=(a,), attrs={"dim": 1}, shape=(2, 1), dtype="float64").index
    graph.add("sub", inputs=(rows, columns), shape=(2, 2), dtype="float64")
    found = analyse(graph, growth=None).values[-1]
    assert (found.lo, found.hi) == (-3, 3)
    graph.add("sub", inputs=(a, a), shape=(2,), dtype="float64")
    found = analyse(graph, growth=None).values[-1]
    assert (found.lo, found.hi) == (0, 0)


def test_an_operation_without_a_rule_may_be_anything() -> None:
    graph = Graph()
    a = leaf(graph, np.array([1.0, 2.0]), 0.0)
    graph.add("nobody_knows", inputs=(a,), shape=(2,), dtype="float64")
    found = analyse(graph, growth=None).values[-1]
    assert (found.lo, found.hi) == (-math.inf, math.inf)
