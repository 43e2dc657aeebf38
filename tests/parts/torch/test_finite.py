"""The promise: for every finite input value and gradient are finite, in four dtypes, at every size."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.parts import suite
from tests.parts.torch.framework import EAGER, FORMULA

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("case", suite.ALL, ids=str)
@QUICK
@given(data=st.data())
def test_finite(case, data):
    dtype = data.draw(st.sampled_from(suite.DTYPES))
    suite.finite(EAGER, case, dtype, data.draw(st.sampled_from((1, 2, 7))), data.draw(suite.numbers(dtype)))


@pytest.mark.parametrize("dtype", suite.DTYPES)
@pytest.mark.parametrize("case", suite.ALL, ids=str)
def test_edges_of_the_dtype(case, dtype):
    """All pairs of edges; and the formula where PyTorch's own kernels are not used."""
    edges = suite.special(dtype)
    pairs = [x for first in edges for second in edges for x in (first, second)]
    for framework in (EAGER, FORMULA):
        suite.finite(framework, case, dtype, 29, pairs)
        suite.finite(framework, case, dtype, 29, edges)


@pytest.mark.parametrize("dtype", suite.DTYPES)
@pytest.mark.parametrize("case", suite.ALL, ids=str)
def test_empty(case, dtype):
    suite.finite(EAGER, case, dtype, 0, [1.0])


@pytest.mark.parametrize("case", suite.EMPTY_GIVES_ZERO, ids=str)
def test_an_empty_target_gives_zero_with_a_live_graph(case):
    arrays = suite.fill([1.0], case.shapes(0), "float32")
    results, gradients = EAGER.run(lambda *xs: case.call(EAGER, 0, *xs), arrays)
    assert [float(result) for result in results] == [0.0] * len(results)
    assert len(gradients) == len(arrays)


def test_saturation_is_at_the_largest_number():
    top = torch.finfo(torch.float32).max
    from whynan.torch import losses, ops

    assert losses.smooth_l1_loss(torch.tensor([3e38]), torch.tensor([-3e38])).item() == top
    assert losses.cross_entropy(torch.tensor([[3e38, -3e38]]), torch.tensor([1])).item() == top
    assert losses.gaussian_nll_loss(torch.tensor([1e30]), torch.tensor([0.0]), torch.tensor([0.0])).item() == top
    assert losses.relative_error_loss(torch.full((9,), 3e38), torch.full((9,), -3e38), reduction="sum").item() == top
    assert ops.exp(torch.tensor(1000.0)).item() == top
    assert ops.exp(torch.tensor(12.0, dtype=torch.float16)).item() == 65504
    assert ops.log(torch.tensor(0.0)).item() == np.float32(np.log(np.float64(torch.finfo(torch.float32).tiny)))
    assert ops.div(torch.tensor(5.0), torch.tensor(0.0)).item() == 0
    assert ops.div(torch.tensor(5.0), torch.tensor(0.0), fill=-1.0).item() == -1
    assert ops.acos(torch.tensor(1.5)).item() == 0
    mean = losses.relative_error_loss(torch.full((9,), 3e38), torch.zeros(9))
    assert mean.item() == pytest.approx(3e38)


@pytest.mark.parametrize("name", ["norm", "std", "var", "normalize", "standardize"])
def test_gradient_zero_where_there_is_none(name):
    from whynan.torch import ops

    for x in (torch.zeros(3, 4), torch.full((3, 4), 0.1) * (0 if name in ("norm", "normalize") else 1)):
        x.requires_grad_()
        result = getattr(ops, name)(x, dim=1)
        (slope,) = torch.autograd.grad(result.sum(), x)
        assert not result.any()
        assert not slope.any()


def test_nan_stays_visible():
    from whynan.torch import losses, ops

    bad = torch.tensor([1.0, float("nan"), 2.0])
    for name in ("log", "log1p", "sqrt", "exp", "acos", "asin", "reciprocal"):
        assert getattr(ops, name)(bad).isnan()[1], name
    assert ops.norm(bad).isnan() and ops.std(bad).isnan() and ops.mean(bad).isnan()
    assert losses.smooth_l1_loss(bad, torch.zeros(3)).isnan()
    assert losses.binary_cross_entropy_with_logits(bad, torch.zeros(3)).isnan()
    assert losses.cross_entropy(bad[None], torch.tensor([0])).isnan()
    assert losses.giou_loss(torch.full((1, 4), float("nan")), torch.rand(1, 4)).isnan()
