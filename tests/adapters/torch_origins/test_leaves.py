"""What was non-finite before the computation began: the batch, a target, a weight, memory that nobody wrote."""

import math

import pytest
import torch
import torch.nn.functional as F

from .harness import Case, Cases, check, find, leaf, watch

NAN, INF = math.nan, math.inf
cases = Cases()

INPUT = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, NAN, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
TARGET = torch.tensor([[1.0], [2.0], [INF]])
WITH_INF = torch.tensor([[1.0, 2.0], [INF, 2.0], [3.0, 4.0]])
WEIGHT = torch.tensor([[1.0, NAN], [1.0, 1.0]])
MASK = torch.tensor([[0.0, -INF], [0.0, 0.0]])


@cases(leaf=INPUT)
def nan_in_the_input():
    torch.manual_seed(0)
    model = watch(torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)))
    return model(INPUT).pow(2).mean()


@cases(leaf=TARGET)
def inf_in_the_target():
    torch.manual_seed(0)
    model = watch(torch.nn.Linear(4, 1))
    return F.mse_loss(model(torch.ones(3, 4)), TARGET)


@cases(leaf=WITH_INF)
def inf_in_the_input_of_batch_norm():
    return watch(torch.nn.BatchNorm1d(2))(WITH_INF).sum()


@cases()
def nan_in_a_weight():
    weight = leaf(WEIGHT)
    return (torch.ones(3, 2) @ weight).sum()


@cases(leaf=INPUT)
def nan_through_convolution():
    torch.manual_seed(0)
    layer = watch(torch.nn.Conv1d(1, 2, 3))
    return layer(INPUT[:, None, :]).pow(2).mean()


@cases(leaf=INPUT)
def nan_through_lstm():
    torch.manual_seed(0)
    layer = watch(torch.nn.LSTM(4, 3))
    return layer(INPUT[None])[0].sum()


@cases(leaf=INPUT)
def nan_through_attention():
    x = leaf(torch.ones(3, 4))
    return F.scaled_dot_product_attention(x[None], INPUT[None], INPUT[None]).sum()


@cases(leaf=INPUT)
def nan_that_relu_hides_in_the_backward_pass():
    x = leaf(torch.ones(3, 4))
    return ((x - INPUT).relu() ** 2).sum()


@cases(leaf=WEIGHT)
def nan_standardised():
    weight = leaf([[1.0, 1.0]])
    x = (WEIGHT - WEIGHT.mean()) / WEIGHT.std()
    return (x * weight).sum()


@pytest.mark.parametrize("case", cases.params)
def test_leaf(case: Case) -> None:
    check(case)


def test_the_place_in_the_leaf():
    found = find(lambda: (leaf(torch.ones(4)) * INPUT).sum(1).mean())
    assert found.slice is not None and found.slice.leaf is not None
    assert found.slice.leaf.offset == 5  # row 1, column 1
    assert found.slice.leaf.key == INPUT.untyped_storage().data_ptr()


def test_a_mask_that_came_with_the_batch_is_meant():
    found = find(lambda: (leaf(torch.ones(2, 2)) + MASK).softmax(1)[:, 0].log().sum())
    assert not found.symptoms


def test_garbage_in_memory_that_nobody_wrote():
    def body():
        y = torch.empty(2)
        y.untyped_storage()  # what stands there is anything: put NaN there without an op that the tracer sees
        y.numpy()[:] = NAN
        return (leaf([1.0, 2.0]) * y).sum()

    found = find(body)
    assert found.slice is not None
    assert found.slice.origin is None or found.slice.origin.name in ("empty", "mul")


def test_statistics_poisoned_by_an_input():
    def body():
        layer = torch.nn.BatchNorm1d(2)
        layer(WITH_INF)
        return [layer.running_mean, layer.running_var]

    found = find(body)
    assert found.slice is not None and found.slice.leaf is not None
    assert found.slice.leaf.shape == (3, 2)


def test_statistics_poisoned_by_an_operation():
    def body():
        layer = torch.nn.BatchNorm1d(2)
        layer(torch.tensor([[0.0, 1.0], [1.0, 1.0]]).log())
        return [layer.running_mean, layer.running_var]

    found = find(body)
    assert found.slice is not None and found.slice.origin is not None
    assert (found.slice.origin.name, found.slice.origin.elements) == ("log", ((0, 0),))
