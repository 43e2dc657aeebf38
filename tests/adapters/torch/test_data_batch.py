"""A batch of any usual build can be cut, patched and cloned, and is itself left alone."""

import copy
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.adapters.torch.data import batch as batches

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    names: list
    note: str = "n"


def image():
    return torch.rand(3, 8, 8)


def target(n):
    return {"boxes": torch.rand(n, 4), "labels": torch.arange(n)}


def rows(n, *shape):
    return torch.rand(n, *shape)


BUILDS = {
    "tensor": (rows(4, 3), 4),
    "pair": ([rows(4, 3, 8, 8), torch.arange(4)], 4),
    "ultralytics": (
        {
            "im_file": ("a", "b", "c"),
            "ori_shape": ((8, 8),) * 3,
            "resized_shape": ((8, 8),) * 3,
            "img": rows(3, 3, 8, 8),
            "cls": rows(3, 1),
            "bboxes": rows(3, 4),
            "batch_idx": torch.tensor([0.0, 0, 2]),
        },
        3,
    ),
    "pair of two": ([rows(2, 5), torch.arange(2)], 2),
    "triplet": ((rows(6, 20), rows(6, 20), rows(6)), 6),
    "dict": ({"image": rows(5, 3), "meta": {"label": torch.arange(5), "name": list("abcde")}, "lr": 0.1}, 5),
    "named tuple": (Pair(rows(3, 2), torch.arange(3)), 3),
    "dataclass": (Frozen(rows(3, 2), ["a", "b", "c"]), 3),
    "detection": (([image() for _ in range(4)], [target(n) for n in (1, 2, 0, 3)]), 4),
    "detection of three": (([image() for _ in range(3)], tuple(target(n) for n in (1, 2, 2))), 3),
    "stacked and list": ((rows(4, 3, 8, 8), [rows(n, 4) for n in (1, 2, 1, 1)]), 4),
    "zip": ((tuple(image() for _ in range(5)), tuple(range(5))), 5),
    "samples": ([(image(), k) for k in range(5)], 5),
    "sample dicts": ([{"x": image(), "y": k} for k in range(5)], 5),
    "images": ([image() for _ in range(5)], 5),
    "two inputs": (((rows(8, 3), rows(8, 2)), torch.arange(8)), 8),
    "arrays": ((np.random.rand(4, 2), np.arange(4)), 4),
    "ctc": ((rows(3, 1, 4, 4), torch.tensor([9, 9, 9]), torch.arange(6), torch.tensor([1, 3, 2])), 3),
    "yolo": ((rows(3, 3, 8, 8), torch.tensor([[0, 7, 0, 0, 1, 1.0], [2, 8, 0, 0, 1, 1], [2, 9, 0, 0, 1, 1]])), 3),
}


@pytest.mark.parametrize("name", BUILDS)
def test_size(name):
    item, size = BUILDS[name]
    assert batches.batch_size(item) == size


@pytest.mark.parametrize("item", [None, 3, "text", torch.tensor(1.0), [], (), {}, [1, 2]])
def test_no_size(item):
    assert batches.batch_size(item) is None
    assert batches.n_bytes(item) == (4 if isinstance(item, torch.Tensor) else 0)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return type(a) is type(b) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, Frozen):
        return same(a.x, b.x) and a.names == b.names
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("name", BUILDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_selections_are_consistent_and_leave_the_original_alone(name, data):
    item, size = BUILDS[name]
    before = copy.deepcopy(item)
    order = data.draw(st.permutations(range(size)))
    permuted = batches.keep_samples(item, order)
    back = batches.keep_samples(permuted, [order.index(k) for k in range(size)])
    assert same(back, item)
    k, j = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    replaced = batches.replace_sample(item, k, j)
    assert batches.batch_size(replaced) == size
    if size > 1:
        one = batches.keep_samples(item, [j], size)
        assert same(batches.keep_samples(replaced, [k], size), one)
        others = [p for p in range(size) if p != k]
        kept = batches.keep_samples(item, others, size)
        assert same(batches.keep_samples(replaced, others, size), kept) and same(batches.drop_sample(item, k), kept)
    assert same(item, before)


def test_concatenated_targets_follow_their_lengths():
    made = batches.replace_sample(BUILDS["ctc"][0], 0, 1)
    assert made[2].tolist() == [1, 2, 3, 1, 2, 3, 4, 5] and made[3].tolist() == [3, 3, 2]


def test_numbered_rows_are_numbered_anew():
    made = batches.keep_samples(BUILDS["yolo"][0], [2, 1])
    assert made[1][:, :2].tolist() == [[0, 8], [0, 9]]


def test_rows_of_tables_follow_the_vector_of_their_images():
    item = BUILDS["ultralytics"][0]
    made = batches.replace_sample(item, 2, 0)
    assert made["batch_idx"].tolist() == [0, 0, 2, 2] and made["bboxes"].equal(item["bboxes"][[0, 1, 0, 1]])
    assert made["img"].equal(item["img"][[0, 1, 0]])


def test_non_finite_values_and_gradients_and_layout_survive():
    x = torch.tensor([[float("nan"), 1], [2, float("inf")]], requires_grad=True)
    made = batches.replace_sample(x, 1, 0)
    assert made.requires_grad and made.is_leaf and torch.isnan(made[:, 0]).all()
    wide = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert batches.keep_samples(wide, [0, 2]).is_contiguous(memory_format=torch.channels_last)


def test_an_element_that_comes_twice_is_two_objects():
    images, targets = batches.replace_sample(BUILDS["detection"][0], 0, 1)
    assert targets[0]["boxes"] is not targets[1]["boxes"] and images[0] is not images[1]


def test_positions_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        batches.keep_samples(torch.rand(3), [3])


def test_clone_shares_nothing_and_keeps_identity():
    x = torch.rand(3)
    item = {"a": x, "b": [x, np.ones(2)], "c": "text"}
    made = batches.clone_batch(item)
    assert made["a"] is made["b"][0] and made["a"] is not x and made["b"] is not item["b"]
    made["a"].zero_(), made["b"][1].fill(0)
    assert x.any() and item["b"][1].all() and made["c"] is item["c"]


def test_subclasses_keep_class_and_attributes():
    from torchvision import tv_tensors

    boxes = tv_tensors.BoundingBoxes(torch.rand(3, 4), format="XYXY", canvas_size=(8, 8))
    for made in (batches.clone_batch(boxes), batches.keep_samples(boxes, [1])):
        assert type(made) is type(boxes) and made.format == boxes.format and made.canvas_size == (8, 8)


def test_versions_tell_of_changes_in_place_and_bytes_count_once():
    x = torch.zeros(4)
    item = [x, {"same": x, "other": np.zeros(2)}]
    before = batches.versions(item)
    assert batches.versions(item) == before and batches.n_bytes(item) == 16 + 16
    x.add_(1)
    assert batches.versions(item) != before


def test_bags_are_cut_where_their_offsets_say() -> None:
    """Three bags in one vector (`EmbeddingBag`), the second one empty; their offsets are numbered anew."""
    ids, offsets, labels = torch.tensor([5, 6, 7, 8, 9]), torch.tensor([0, 2, 2]), torch.tensor([3, 1, 2])
    made = batches.keep_samples((ids, offsets, labels), [0, 2, 2])
    assert [part.tolist() for part in made] == [[5, 6, 7, 8, 9, 7, 8, 9], [0, 2, 5], [3, 2, 2]]
    made = batches.keep_samples((labels, ids, offsets), [1, 0])
    assert [part.tolist() for part in made] == [[1, 3], [5, 6], [0, 0]]
