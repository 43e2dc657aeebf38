"""Cheap checks of many tensors say what slow ones say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.adapters.torch.elements import TensorGroup, any_nonfinite, dense, first_nonfinite


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(width=32), max_size=4), max_size=5))
def test_a_group_finds_what_is_there(rows):
    tensors = [torch.tensor(row) for row in rows]
    expected = any(not math.isfinite(value) for row in rows for value in row)
    assert TensorGroup(share=0.005, free_s=1.0).check(tensors)[0] is expected
    assert TensorGroup(share=0.005, free_s=1.0).check(tensors, due=False)[0] is expected
    assert any_nonfinite(tensors) is expected


def test_a_norm_that_overflows_is_no_infinity():
    found, norm = TensorGroup(share=0.005, free_s=1.0).check([torch.full((10,), 3e38)])
    assert not found and not math.isnan(norm)


@pytest.mark.parametrize("bad", [0, 2])
def test_small_tensors_of_several_kinds(bad):
    tensors = [torch.ones(3, dtype=torch.float16), torch.full((9,), 3e38), torch.ones(2, dtype=torch.complex64)]
    group = TensorGroup(share=0.005, free_s=1.0)
    assert group.check(tensors, due=False) == (False, None)
    tensors[bad][1] = math.nan
    assert group.check(tensors, due=False)[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_guilty_tensors(value):
    good, bad = torch.ones(2), torch.tensor([1.0, value])
    assert [id(tensor) for tensor in first_nonfinite([good, bad, None])] == [id(bad)]


def test_norm():
    assert TensorGroup(share=0.005, free_s=1.0).check([torch.tensor([3.0]), torch.tensor([4.0])]) == (False, 5.0)


def test_only_what_can_be_read():
    sparse = torch.eye(2).to_sparse()
    found = dense([torch.ones(2), None, torch.ones(2, dtype=torch.int64), sparse])
    assert [tensor.shape for tensor in found] == [(2,), (2,)]
