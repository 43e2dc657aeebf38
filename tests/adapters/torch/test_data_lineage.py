"""A hand-made batch leads to the list or table that it was taken from, or to nothing."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from whynan.adapters.torch.data.lineage import find_in_containers, row_of


def test_an_element_of_a_list():
    data = [(torch.rand(3), k) for k in range(20)]
    picked = [data[k] for k in (7, 3, 11)]
    assert find_in_containers(picked[1], [{"picked": picked, "data": data}]) == ("data", 3)
    assert find_in_containers(picked[1][0], [{"picked": picked}, {"data": data}]) == ("data", 3)
    assert find_in_containers(picked[1], [{"picked": picked}]) == ("picked", 1)
    assert find_in_containers(torch.rand(3), [{"data": data}]) is None


def test_an_attribute_of_an_object():
    holder = type("Holder", (), {})()
    holder.rows = [torch.rand(2) for _ in range(9)]
    assert find_in_containers(holder.rows[4], [{"data": holder}]) == ("data.rows", 4)
    assert find_in_containers(holder.rows[4], [{"data": {"train": holder.rows}}]) == ("data['train']", 4)


@pytest.mark.parametrize("obj", [None, 3, "a", True, 2.5])
def test_shared_objects_are_never_looked_for(obj):
    assert find_in_containers(obj, [{"data": [obj, 1, 2]}]) is None


def test_an_object_that_stands_twice_is_not_claimed():
    x = torch.rand(3)
    assert find_in_containers(x, [{"data": [x, x, torch.rand(3)]}]) is None


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 3), st.booleans())
def test_rows_of_a_shuffled_batch(order, position, as_numpy):
    x = torch.arange(36.0).reshape(12, 3)
    x[5, 1] = float("nan")
    table = x.numpy() if as_numpy else x
    batch = x[list(order[:4])]
    assert row_of(batch[position], [{"batch": batch, "x": table}]) == ("x", order[position])


def test_a_table_of_doubles_behind_a_batch_of_floats():
    table = np.random.default_rng(0).random((50, 4))
    batch = torch.tensor(table[[9, 2]], dtype=torch.float32)
    assert row_of(batch[1], [{"table": table}]) == ("table", 2)


def test_equal_rows_small_tables_and_other_shapes_are_not_claimed():
    assert row_of(torch.zeros(3), [{"x": torch.zeros(20, 3)}]) is None
    assert row_of(torch.zeros(3), [{"x": torch.rand(20, 4), "w": torch.zeros(4, 3)}]) is None
    assert row_of("text", [{"x": torch.rand(20, 4)}]) is None
    labels = torch.arange(20)
    assert row_of(torch.tensor([4]), [{"x": labels[:, None]}]) == ("x", 4)


def test_the_larger_of_two_tables_is_the_data_set():
    x = torch.rand(40, 3)
    part = x[10:30].clone()
    assert row_of(part[2].clone(), [{"part": part, "x": x}]) == ("x", 12)


def test_the_batch_itself_is_ruled_out_by_its_size():
    batch = [torch.rand(16, 3), [torch.rand(2) for _ in range(16)]]
    assert row_of(batch[0][2], [{"batch": batch[0]}], min_rows=17) is None
    assert find_in_containers(batch[1][2], [{"batch": batch[1]}], min_length=17) is None


def test_tables_inside_a_dataset():
    data = TensorDataset(torch.rand(30, 2), torch.rand(30))
    assert row_of(data.tensors[0][8].clone(), [{"data": data}]) == ("data.tensors[0]", 8)


def test_the_cost_is_bounded():
    x = torch.zeros(200_000, 16)
    x[:, 8] = torch.arange(200_000.0)
    started = time.monotonic()
    assert row_of(x[123_456].clone(), [{"x": x}]) == ("x", 123_456)
    assert find_in_containers(torch.rand(1), [{"big": [object()] * 1_000_000}]) is None
    assert time.monotonic() - started < 5
