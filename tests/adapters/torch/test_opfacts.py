"""Facts about single ops."""

import math

import pytest
import torch

from whynan.adapters.torch.opfacts import (
    args_by_name,
    birth_facts,
    broadcast_element,
    gathered_rows,
    is_literal,
    written_arguments,
)

A = torch.ops.aten


def test_what_an_op_writes():
    x, y, out = torch.ones(2), torch.ones(2), torch.ones(2)
    assert written_arguments(A.add.Tensor, "add", (x, y), {}) == []
    assert [id(t) for t in written_arguments(A.add_.Tensor, "add_", (x, y), {})] == [id(x)]
    assert [id(t) for t in written_arguments(A.add.out, "add", (x, y), {"out": out})] == [id(out)]
    both = written_arguments(A._foreach_add_.Scalar, "_foreach_add_", ([x, y], 1), {})
    assert [id(t) for t in both] == [id(x), id(y)]


def test_running_statistics_are_written():
    mean, var = torch.zeros(2), torch.ones(2)
    args = (torch.ones(3, 2), None, None, mean, var, True, 0.1, 1e-5)
    found = written_arguments(A.native_batch_norm.default, "native_batch_norm", args, {})
    assert {id(mean), id(var)} <= {id(tensor) for tensor in found}


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "expected"),
    [
        ("full", ([2], -math.inf), {}, True),
        ("masked_fill", (torch.ones(2), torch.ones(2, dtype=torch.bool), -math.inf), {}, True),
        ("masked_fill", (torch.ones(2), torch.ones(2, dtype=torch.bool), 0.0), {}, False),
        ("masked_fill_", (torch.ones(2), torch.ones(2, dtype=torch.bool), torch.tensor(-math.inf)), {}, True),
        ("constant_pad_nd", (torch.ones(2), [1, 1]), {"value": -math.inf}, True),
        ("log", (torch.zeros(2),), {}, False),
    ],
)
def test_literals(name, args, kwargs, expected):
    assert is_literal(name, args, kwargs) is expected


def test_plain_arguments():
    assert args_by_name(A.pow.Tensor_Scalar, (torch.ones(2), 0.5), {}) == {"exponent": 0.5}
    assert args_by_name(A.sum.dim_IntList, (torch.ones(2, 2), [1], True), {}) == {"dim": [1], "keepdim": True}


def test_rows():
    table = torch.arange(12).reshape(6, 2)
    assert gathered_rows("index", (table, [torch.tensor([4, 1])])) == (4, 1)
    assert gathered_rows("index", (table, [table[:, 0] > 5])) == (3, 4, 5)
    assert gathered_rows("slice", (table, 0, 2, 4)) == (2, 3)
    assert gathered_rows("slice", (table, 1, 0, 1)) is None
    assert gathered_rows("index_select", (table, 0, torch.tensor([5]))) == (5,)


@pytest.mark.parametrize(
    ("element", "shape", "expected"),
    [
        ((1, 2), (3, 4), (1, 2)),
        ((1, 2), (4,), (2,)),
        ((1, 2), (3, 1), (1, 0)),
        ((1,), (1, 1), None),
        ((5,), (3,), None),
    ],
)
def test_broadcasting(element, shape, expected):
    assert broadcast_element(element, shape) == expected


def test_facts_of_a_birth():
    masked = torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]])
    facts = birth_facts("_softmax", (masked, 1, False), {}, [masked], masked.softmax(1), [(1, 0)])
    assert facts["masked_rows"] == 1 and facts["inputs_at_element"] == [-math.inf]
    empty = torch.empty(0)
    assert birth_facts("mean", (empty,), {}, [empty], empty.mean(), [()])["reduces_nothing"]
    one = torch.ones(1)
    assert birth_facts("std", (one,), {}, [one], torch.tensor(math.nan), [()])["reduces_nothing"]
