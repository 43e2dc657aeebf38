"""The elements of an input that can have made an output's element non-finite, against the truth by brute force."""

import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from whynan.adapters.torch.storages import aligned, argument, relevant_elements

A = torch.ops.aten
X = torch.arange(1.0, 13.0).reshape(3, 4)
CASES = {
    "add": (A.add.Tensor, lambda x: (x, X)),
    "broadcast": (A.mul.Tensor, lambda x: (x, torch.ones(2, 3, 4))),
    "where": (A.where.self, lambda x: (X > 0, x, X)),
    "cat": (A.cat.default, lambda x: ([X, x], 1)),
    "cat-negative": (A.cat.default, lambda x: ([X, x], -2)),
    "stack": (A.stack.default, lambda x: ([X, x], 1)),
    "mm-left": (A.mm.default, lambda x: (x, X.t().contiguous())),
    "mm-right": (A.mm.default, lambda x: (X.t().contiguous(), x)),
    "addmm-bias": (A.addmm.default, lambda x: (x, torch.ones(3, 2), torch.ones(2, 4))),
    "bmm": (A.bmm.default, lambda x: (x[None], X.t().contiguous()[None])),
    "softmax": (A._softmax.default, lambda x: (x, 1, False)),
    "log_softmax": (A._log_softmax.default, lambda x: (x, -2, False)),
    "cumsum": (A.cumsum.default, lambda x: (x, 0)),
    "sort": (A.sort.default, lambda x: (x,)),
    "sum": (A.sum.dim_IntList, lambda x: (x, [1])),
    "sum-keepdim": (A.sum.dim_IntList, lambda x: (x, [0], True)),
    "sum-all": (A.sum.default, lambda x: (x,)),
    "mean": (A.mean.dim, lambda x: (x, [-1])),
    "amax": (A.amax.default, lambda x: (x, [0])),
    "logsumexp": (A.logsumexp.default, lambda x: (x, [1])),
    "norm": (A.linalg_vector_norm.default, lambda x: (x, 2.0, [1])),
    "var": (A.var.correction, lambda x: (x, [0])),
    "copy": (A.clone.default, lambda x: (x,)),
    "unknown": (A.flip.default, lambda x: (x, [0, 1])),
}


@pytest.mark.parametrize("where", [(0, 0), (1, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_no_guilty_element_is_missed(name, where):
    func, arguments = CASES[name]
    x, innocent = X.clone(), X.clone()
    x[where] = math.nan
    x[0, 3] = math.nan  # a second one, elsewhere
    args = arguments(x)
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    position = next(k for k, tensor in enumerate(tensors) if tensor.isnan().any())
    value = tensors[position]
    outs = tree_leaves(func(*args))
    out = outs[0]
    innocent[0, 3] = math.nan
    without = tree_leaves(func(*arguments(innocent)))[0]
    short = func._schema.name.rpartition("::")[2]
    for element in out.isnan().nonzero().tolist():
        found = relevant_elements(func, short, args, {}, value, value, position, out, tuple(element))
        places = value.isnan().nonzero().tolist() if found is None else [list(place) for place in found]
        assert places, "nobody is to blame"
        assert all(bool(value[tuple(place)].isnan()) for place in places)
        if not bool(without[tuple(element)].isnan()):  # then only the one at `where` can have done it
            assert [*([0] * (value.dim() - 2)), *where] in places


NO_FINER = ("unknown", "sum-all", "cumsum", "sort")
"""Where everything counts, or whole lines do, which is more than is needed."""


@pytest.mark.parametrize("name", [n for n in CASES if n not in NO_FINER])
def test_elements_without_influence_are_left_out(name):
    """Where the output's element is independent of `where`, a rule that knows the op doesn't name it."""
    func, arguments = CASES[name]
    x = X.clone()
    x[1, 2] = math.nan
    args = arguments(x)
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    position = next(k for k, tensor in enumerate(tensors) if tensor.isnan().any())
    out = tree_leaves(func(*args))[0]
    short = func._schema.name.rpartition("::")[2]
    for element in (~out.isnan()).nonzero().tolist():
        value = tensors[position]
        assert relevant_elements(func, short, args, {}, value, value, position, out, tuple(element)) == []


def test_arguments_by_name():
    assert argument(A.sort.default, (X,), {}, "dim") == -1
    assert argument(A.sort.default, (X, 0), {}, "dim") == 0
    assert argument(A.sort.stable, (X,), {"stable": True, "dim": 1}, "dim") == 1
    with pytest.raises(IndexError):
        argument(A.sort.default, (X,), {}, "nothing")


def test_lists_are_computed_item_by_item():
    left, right = [torch.ones(1) for _ in range(3)], [torch.ones(1) for _ in range(3)]
    inputs = [*left, *right]
    results = [torch.ones(1) for _ in range(3)]
    found = aligned("_foreach_add", (left, right), results, inputs, results[1])
    assert [id(t) for t in found] == [id(left[1]), id(right[1])]
    found = aligned("_foreach_add_", (left, right), left, inputs, left[2])
    assert [id(t) for t in found] == [id(left[2]), id(right[2])]
    assert aligned("cat", (left,), results, left, results[0]) == left
