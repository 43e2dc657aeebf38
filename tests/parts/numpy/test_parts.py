"""The suite for NumPy, which has values only."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.parts import suite

from whynan.numpy import losses, ops

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def run(call, arrays):
    result = call(*arrays)
    results = list(result.values()) if isinstance(result, dict) else [result]
    return [np.asarray(x) for x in results], []


NUMPY = SimpleNamespace(ops=ops, losses=losses, array=np.asarray, run=run, hard=lambda y: (y > 0).astype(y.dtype))


@pytest.mark.parametrize("case", suite.ALL, ids=str)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_finite(case, data):
    dtype = data.draw(st.sampled_from(suite.DTYPES))
    suite.finite(NUMPY, case, dtype, data.draw(st.sampled_from((0, 1, 7))), data.draw(suite.numbers(dtype)))


@pytest.mark.parametrize("dtype", suite.DTYPES)
def test_numbers_of_mpmath(dtype):
    for index in range(len(suite.ELEMENT_REFERENCES)):
        suite.against_mpmath(NUMPY, index, dtype)
    suite.row_references(NUMPY, dtype)


def test_numpy_s_own_names_of_arguments():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(ops.std(x, axis=1, keepdims=True), x.std(axis=1, keepdims=True))
    np.testing.assert_allclose(ops.std(x, axis=1, ddof=1), x.std(axis=1, ddof=1))
    with pytest.raises(TypeError, match="both 'axis' and 'dim'"):
        ops.std(x, axis=1, dim=1)


def test_clip_and_schedules():
    from whynan.numpy import clip, schedules

    clipped, total = clip.clip_by_global_norm([np.array([3.0, 4.0]), np.array([np.nan])], 1.0)
    assert np.isnan(total) and np.isnan(clipped[1][0])
    np.testing.assert_allclose(clipped[0], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_array_equal(clip.clip_by_value([np.array([5.0, np.inf])], 1.0)[0], [1.0, np.inf])
    assert len(schedules.warmup_polynomial(0.1, 5, 20)) == 20
    np.testing.assert_allclose(
        clip.clip_adaptive([np.array([3.0, 4.0])], [np.ones(2)])[0], [0.00849, 0.01131], rtol=1e-3
    )


def test_init_and_layers():
    from whynan.numpy import init, layers

    rng = np.random.default_rng(0)
    w = init.by_nonlinearity((3, 3, 8, 64), "relu", rng)
    assert abs(w.std() - np.sqrt(2 / 72)) < 0.01
    assert [s.name for s in init.activation_scale({"w": w})] == ["w"]
    x = rng.normal(size=(5, 8))
    np.testing.assert_allclose(layers.layer_norm(x).std(1), 1, rtol=1e-3)


def test_migration():
    suite.migration("NumPy", np.asarray, np.asarray, np=np, ops=ops, losses=losses)
