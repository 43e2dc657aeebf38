"""A summary's counts are those that plain Python would count; measuring is seen by nobody."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from whynan.adapters.torch.data.batch import batch_size, clone_batch, keep_samples, n_bytes, versions
from whynan.adapters.torch.data.facts import describe
from whynan.adapters.torch.opfacts import DISTINCT_LIMIT, is_finite, summarize

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
special = st.sampled_from([0.0, -0.0, 1.0, -2.0, math.nan, math.inf, -math.inf])


@settings(max_examples=150, deadline=None)
@given(st.lists(special | st.floats(-4.0, 4.0, width=16), min_size=1, max_size=30), st.sampled_from(FLOATS))
def test_counts_and_range(values, dtype):
    tensor = torch.tensor(values).to(dtype)
    values = tensor.double().tolist()
    finite = [v for v in values if math.isfinite(v)]
    found = summarize(tensor, role="batch", name="x")
    assert (found.role, found.name, found.shape) == ("batch", "x", (len(values),))
    assert found.min == min(finite, default=None) and found.max == max(finite, default=None)
    assert found.abs_min_nonzero == min((abs(v) for v in finite if v), default=None)
    assert found.n_zero == finite.count(0.0)
    assert found.n_negative == sum(v < 0 for v in values)
    assert found.n_nan == sum(map(math.isnan, values))
    assert (found.n_posinf, found.n_neginf) == (values.count(math.inf), values.count(-math.inf))
    assert found.n_distinct == len(set(finite))
    assert is_finite(tensor) == (len(finite) == len(values))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.uint16])
def test_integers(dtype):
    found = summarize(torch.tensor([0, 1, 1], dtype=dtype))
    assert (found.min, found.max, found.n_zero, found.n_distinct) == (0.0, 1.0, 1, 2)
    assert found.dtype == str(dtype).removeprefix("torch.")


def test_empty_scalar_and_constant():
    empty = summarize(torch.zeros(0, 3))
    assert empty.min is None and empty.shape == (0, 3) and is_finite(torch.zeros(0))
    assert summarize(torch.tensor(3.0)).shape == ()
    assert summarize(torch.ones(DISTINCT_LIMIT + 1)).n_distinct == 1
    assert summarize(torch.arange(DISTINCT_LIMIT + 1.0)).n_distinct is None


def test_complex_counts_an_element_once_and_measures_magnitude():
    found = summarize(torch.tensor([3 + 4j, complex(math.nan, 1), complex(math.inf, 0)]))
    assert (found.n_nan, found.n_posinf, found.min, found.max) == (1, 1, 5.0, 5.0)


@pytest.mark.filterwarnings("ignore")
def test_layouts_without_strides():
    dense = torch.tensor([[0.0, -2.0], [0.0, math.nan]])
    for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
        found = summarize(sparse)
        assert (found.n_zero, found.n_nan, found.min, found.max, found.n_negative) == (2, 1, -2.0, 0.0, 1)
    assert summarize(torch.quantize_per_tensor(torch.tensor([0.5]), 0.1, 0, torch.quint8)).max == pytest.approx(0.5)
    assert summarize(torch.ones(2, 2).to_mkldnn()).max == 1.0
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.tensor([math.nan])], layout=torch.jagged)
    assert summarize(ragged).n_nan == 1 and not is_finite(ragged)


def test_what_cannot_be_read_says_so():
    assert summarize(torch.ones(2, 3, device="meta")).extra["unread"] == "meta tensor"
    assert "TypeError" in summarize("text").extra["unread"] and is_finite("text")


def test_arrays_and_numbers():
    assert summarize(np.array([1.0, math.nan], dtype="float32")).dtype == "float32"
    assert summarize(1e300).max == 1e300 and summarize(True).dtype == "bool" and summarize(np.float32(2)).max == 2.0
    assert not is_finite(np.array([math.inf])) and is_finite(np.array([1]))


def test_nobody_sees_it():
    seen = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(3, requires_grad=True) * 2
    version, state = x._version, torch.get_rng_state()
    with Dispatch(), Function():
        summarize(x)
        is_finite(x)
        batch = clone_batch({"x": x, "y": [x, x, x]})
        assert batch_size(batch) == 3 and len(versions(batch)) == 4 and n_bytes(batch) == 12
        keep_samples(batch, [0, 2])
        describe(batch)
    assert not seen and x._version == version and torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        assert summarize(torch.ones(2)).max == 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu():
    x = torch.tensor([0.0, -1.0, math.nan, math.inf], device="cuda")
    for dtype in FLOATS:
        assert summarize(x.to(dtype)).n_nan >= 1
    assert summarize(x) == summarize(x.cpu())
