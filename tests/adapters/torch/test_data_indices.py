"""An index is followed to the sample as the user counts it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset, random_split

from whynan.adapters.torch.data.lineage import resolve


class Held(Dataset):
    def __init__(self, n, **held):
        self.n = n
        vars(self).update(held)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        raise AssertionError("no sample is fetched")


class Wrapper(Dataset):
    def __init__(self, dataset, indices=None):
        self.dataset = dataset
        if indices is not None:
            self.indices = indices

    def __len__(self):
        return len(getattr(self, "indices", self.dataset))


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)), st.integers(0, n - 1))))
def test_nested_subsets_lead_to_the_value_that_they_would_yield(case):
    n, order, index = case
    base = TensorDataset(torch.arange(n))
    data = Wrapper(Subset(Subset(base, order), torch.tensor(order)), np.array(order))
    found = resolve(data, index)
    assert found.dataset is base and type(found.index) is int
    assert base[found.index] == base[order[order[order[index]]]]


def test_random_split_and_wrappers():
    base = Held(20)
    part, _ = random_split(base, [12, 8])
    found = resolve(Wrapper(part), 3)
    assert found.dataset is base and found.index == part.indices[3]
    unrelated = Wrapper(base, [1, 2])
    unrelated.__class__ = type("Windows", (Wrapper,), {"__len__": lambda self: 7})
    assert resolve(unrelated, 5).dataset is unrelated


def test_a_concatenation_keeps_its_own_index_and_names_the_part():
    a, b = Held(5), Held(7, paths=[f"b/{i}.png" for i in range(7)])
    both = ConcatDataset([a, Subset(b, [6, 5, 4, 3])])
    found = resolve(Subset(both, [8, 7, 6]), 1)
    assert found.dataset is both and found.index == 7
    assert found.detail == "part 1 (Held), index 4" and found.path == "b/4.png"
    assert resolve(both, -1).detail == "part 1 (Held), index 3"


def test_stacked_members_give_the_path():
    assert resolve(StackDataset(x=Held(3), y=Held(3, files=["0.npy", "1.npy", "2.npy"])), 2).path == "2.npy"


@pytest.mark.parametrize("held, expected", [
    ({"samples": [("a/0.jpg", 0), ("a/1.jpg", 1), ("b/2.jpg", 0)]}, "b/2.jpg"),
    ({"files": [Path("x/0.npy"), Path("x/1.npy"), Path("x/2.npy")]}, "x/2.npy"),
    ({"records": [{"label": 1, "file_name": f"{i}.tif"} for i in range(3)]}, "2.tif"),
    ({"whatever": np.array(["0.png", "1.png", "2.png"])}, "2.png"),
    ({"classes": ["cat", "dog", "cow"]}, None),
    ({"texts": ["It is.", "Costs 3.50", "No. 5"]}, None),
    ({"files": ["0.png", "1.png"]}, None),
    ({"images": [torch.zeros(3)] * 3}, None),
    ({"ids": [7, 8, 9], "coco": type("Coco", (), {"imgs": {9: {"file_name": "000009.jpg"}}})()}, "000009.jpg"),
])  # fmt: skip
def test_the_file_of_a_sample(held, expected):
    assert resolve(Held(3, **held), 2).path == expected


def test_a_bare_name_is_joined_to_the_folder_where_it_is(tmp_path):
    (tmp_path / "1.png").touch()
    assert resolve(Held(2, root=str(tmp_path), imgs=["0.png", "1.png"]), 1).path == str(tmp_path / "1.png")
    assert resolve(Held(2, root=str(tmp_path), imgs=["0.png", "1.png"]), 0).path == "0.png"


@pytest.mark.parametrize("dataset", [None, 3, object(), Subset(Held(3), []), Wrapper(None)])
def test_nothing_is_raised(dataset):
    assert resolve(dataset, 5).index == 5


def test_a_ring_of_wrappers_ends():
    ring = Wrapper(None, [0])
    ring.dataset = ring
    assert resolve(ring, 0).index == 0
