"""Single elements: found, addressed, told from one another."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whynan.adapters.torch.elements import (
    Region,
    element_address,
    in_turn,
    is_nonfinite,
    kind_at,
    kind_of,
    nonfinite_elements,
    sampled_elements,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_floating_dtype(dtype, value):
    tensor = torch.ones(3, 4)
    assert not is_nonfinite(tensor.to(dtype))
    tensor[1, 2] = value
    assert is_nonfinite(tensor.to(dtype))
    elements, kind = nonfinite_elements(tensor.to(dtype))
    assert elements == [(1, 2)] and kind == kind_of(value) == kind_at(tensor.to(dtype), (1, 2))


def test_a_sum_that_overflows_is_no_infinity():
    assert not is_nonfinite(torch.full((10,), 3e38))
    assert not is_nonfinite(torch.full((10,), 6e4, dtype=torch.float16))
    assert is_nonfinite(torch.tensor([math.inf, -math.inf]))


def test_complex():
    tensor = torch.complex(torch.ones(2), torch.tensor([0.0, math.inf]))
    assert is_nonfinite(tensor) and nonfinite_elements(tensor) == ([(1,)], "inf")
    assert is_nonfinite(tensor.conj())


def test_empty_and_scalar():
    assert not is_nonfinite(torch.empty(0))
    assert nonfinite_elements(torch.tensor(math.nan)) == ([()], "nan")


def test_nan_comes_before_infinities_which_are_sampled_too():
    tensor = torch.tensor([1.0, math.inf, math.nan, -math.inf])
    assert nonfinite_elements(tensor) == ([(2,)], "nan")
    assert sampled_elements(tensor) == [((2,), "nan"), ((1,), "inf"), ((3,), "-inf")]


def test_many_are_spread():
    tensor = torch.zeros(1000)
    tensor[100:900] = math.nan
    elements, _ = nonfinite_elements(tensor, 4)
    assert elements[0] == (100,) and len(elements) == 4 and elements[-1][0] > 600


def test_large_tensors_give_the_first():
    tensor = torch.zeros(500, 600)
    tensor[321, 123] = math.nan
    assert nonfinite_elements(tensor)[0][0] == (321, 123)


@st.composite
def views(draw):
    base = torch.zeros(draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    view = base
    for _ in range(draw(st.integers(0, 3))):
        dim = draw(st.integers(0, view.dim() - 1)) if view.dim() else 0
        kind = draw(st.sampled_from(["slice", "transpose", "select", "step", "unsqueeze"]))
        if view.dim() == 0 or 0 in view.shape:
            break
        if kind == "slice":
            view = view.narrow(dim, draw(st.integers(0, view.shape[dim] - 1)), 1)
        elif kind == "transpose":
            view = view.transpose(dim, draw(st.integers(0, view.dim() - 1)))
        elif kind == "select":
            view = view.select(dim, draw(st.integers(0, view.shape[dim] - 1)))
        elif kind == "step":
            view = view[::2]
        else:
            view = view.unsqueeze(dim)
    return base, view


@given(views())
def test_a_region_holds_exactly_the_addresses_of_its_view(pair):
    base, view = pair
    view.fill_(1.0)
    region = Region.of(view)
    flat = base.reshape(-1)
    assert [region.holds(address) for address in range(-1, flat.numel() + 1)] == [
        False,
        *(bool(value) for value in flat),
        False,
    ]


@given(views(), st.data())
def test_addresses_lead_to_their_elements(pair, data):
    base, view = pair
    element = tuple(data.draw(st.integers(0, size - 1)) for size in view.shape)
    view[element] = 7.0
    assert base.reshape(-1)[element_address(view, element)] == 7.0


def test_the_parts_of_complex_elements_lie_where_they_do():
    spectrum = torch.zeros(4, 6, dtype=torch.complex64)[1:, ::2]
    region = Region.of(spectrum)
    assert region.holds(element_address(spectrum, (1, 2)))
    assert element_address(spectrum, (1, 2)) == element_address(spectrum.real, (1, 2))
    assert region.holds(element_address(spectrum.imag, (2, 1)))
    assert not region.holds(element_address(spectrum, (2, 2)) + 2)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 33, 62, 500])
def test_each_has_its_turn(count):
    tensors = list(range(count))
    n_steps = -(-count // 8) + 8
    for begin in (0, 3):
        seen = [in_turn(tensors, begin + step) for step in range(n_steps)]
        assert sorted({one for some in seen for one in some}) == tensors
        assert max(map(len, seen)) <= 32
    assert count > 8 or in_turn(tensors, 5) == tensors
