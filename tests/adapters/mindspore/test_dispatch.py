"""Which operations a replay sees: those that MindSpore's own dispatch mode leaves out, too."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import mint, ops

from whynan.adapters.mindspore.known import Places
from whynan.adapters.mindspore.trace import Tracer

A = ms.Tensor(np.array([[0.0, 1.0], [2.0, 3.0]], np.float32))
SEEN: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "concat": (lambda: ops.concat([ops.log(A), A + 1]), ["log", "add", "concat"]),
    "mint.cat": (lambda: mint.cat([A.exp(), A]), ["exp", "concat"]),
    "once": (lambda: ops.softmax(A) * 2, ["softmax", "mul"]),
    "inside": (lambda: ops.norm(A), ["square", "sum", "sqrt"]),
}


@pytest.mark.parametrize("name", SEEN)
def test_operations_are_seen_once(name: str) -> None:
    make, names = SEEN[name]
    tracer = Tracer(Places(), [])
    before = {key: value for key, value in vars(ms.ops.auto_generate.gen_ops_prim).items() if callable(value)}
    with tracer:
        made = make()
    assert [node.name for node in tracer.graph.nodes] == names
    assert tracer.graph.producer[tracer.value_of(made)] == len(names) - 1
    after = {key: value for key, value in vars(ms.ops.auto_generate.gen_ops_prim).items() if callable(value)}
    assert after == before


def test_a_bad_value_is_followed_through_a_concatenation() -> None:
    tracer = Tracer(Places(), [])
    with tracer:
        made = ops.concat([ops.log(A), A + 1]).sum()
    found = tracer.graph.slice([tracer.value_of(made)])
    assert found is not None
    assert found.origin is not None
    assert found.origin.name == "log"
