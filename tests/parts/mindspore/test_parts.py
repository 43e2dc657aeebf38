"""The suite for MindSpore, in its PyNative mode."""

from types import SimpleNamespace

import mindspore
import ml_dtypes
import numpy as np
import pytest
from tests.parts import suite

from whynan.mindspore import losses, ops


def array(x):
    x = np.asarray(x)
    if x.dtype == ml_dtypes.bfloat16:
        return mindspore.Tensor(x.astype(np.float32)).astype(mindspore.bfloat16)
    return mindspore.Tensor(x)


def back(x):
    wide = x.astype(mindspore.float32).asnumpy() if x.dtype == mindspore.bfloat16 else x.asnumpy()
    return wide.astype(ml_dtypes.bfloat16) if x.dtype == mindspore.bfloat16 else wide


def run(call, arrays):
    results = []

    def total(*xs):
        result = call(*xs)
        results[:] = list(result.values()) if isinstance(result, dict) else [result]
        return sum(mindspore.mint.sum(x.astype(mindspore.float64)) for x in results)

    tensors = [array(x) for x in arrays]
    gradients = mindspore.grad(total, tuple(range(len(tensors))))(*tensors)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return [back(x) for x in results], [back(x) for x in gradients]


MINDSPORE = SimpleNamespace(ops=ops, losses=losses, array=array, run=run, hard=lambda y: (y > 0).astype(y.dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", suite.ONE_REDUCTION, ids=str)
def test_edges(case, dtype):
    # Each gradient takes tens of milliseconds here: fewer combinations than elsewhere.
    suite.many_edges(MINDSPORE, case, dtype, 5 if dtype == "float32" else 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_of_mpmath(dtype):
    for index in range(len(suite.ELEMENT_REFERENCES)):
        suite.against_mpmath(MINDSPORE, index, dtype, 12)
    suite.row_references(MINDSPORE, dtype)


@pytest.mark.parametrize("case", suite.EMPTY_GIVES_ZERO, ids=str)
def test_an_empty_target_gives_zero(case):
    suite.finite(MINDSPORE, case, "float32", 0, [1.0])
