"""What `describe` finds in a batch, and what it must not claim."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.adapters.torch.data.facts import are_corners, describe, mended


def roles(facts):
    return {tensor.name: tensor.role for tensor in facts.tensors}


def test_names_and_roles():
    x, y = torch.rand(4, 3), torch.arange(4)
    assert roles(describe({"x": x, "y": y})) == {"x": "batch", "y": "target"}
    assert roles(describe({"batch": (x, y)})) == {"batch[0]": "batch", "batch[1]": "target"}
    assert roles(describe({"left": x, "right": x, "same": y})) == {"left": "batch", "right": "target", "same": "batch"}
    nested = {"input_ids": x, "attention_mask": x, "labels": y}
    assert roles(describe({"batch": nested})) == {
        "batch.input_ids": "batch", "batch.attention_mask": "batch", "batch.labels": "target",
    }  # fmt: skip
    detection = describe({"images": [torch.rand(3, 8, 8)] * 2, "targets": [{"boxes": torch.rand(1, 4)}] * 2})
    assert roles(detection)["targets[1].boxes"] == "target" and roles(detection)["images[1]"] == "batch"
    assert detection.size == 2


def test_many_tensors_are_capped():
    facts = describe({"images": [torch.rand(3, 4, 4) for _ in range(64)], "y": torch.arange(64)})
    assert len(facts.tensors) == 40 and facts.size == 64


def corners(*boxes):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)}


def test_degenerate_corners():
    images = [torch.rand(3, 8, 8) for _ in range(3)]
    targets = [corners((10, 10, 20, 20), (5, 5, 9, 30)), corners((7, 3, 7, 9)), corners()]
    facts = describe({"images": images, "targets": targets})
    assert facts.degenerate_boxes == ((1, (7.0, 3.0, 7.0, 9.0)),)
    assert facts.empty_targets == (2,)


def test_unnamed_boxes_in_a_list_and_a_single_image():
    facts = describe(
        {"imgs": torch.rand(2, 3, 8, 8), "gt": [torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([[4.0, 2, 4, 6]])]}
    )
    assert facts.degenerate_boxes == ((1, (4.0, 2.0, 4.0, 6.0)),)
    alone = describe({"images": [torch.rand(3, 8, 8)], "targets": [corners((7, 3, 7, 9))]})
    assert alone.degenerate_boxes == ((0, (7.0, 3.0, 7.0, 9.0)),)


def test_sizes_are_not_read_as_corners_and_padding_is_no_box():
    xywh = torch.tensor([[[50.0, 60, 10, 12], [0, 0, 0, 0]], [[40, 41, 9, 0], [70, 80, 5, 6]]])
    facts = describe({"image": torch.rand(2, 3, 8, 8), "boxes": xywh})
    assert facts.degenerate_boxes == ((1, (40.0, 41.0, 9.0, 0.0)),)
    centres = torch.tensor([[0.5, 0.5, 0.1, 0.2], [0.7, 0.2, 0.3, 0.1]])
    assert describe({"image": torch.rand(2, 3, 8, 8), "boxes": centres}).degenerate_boxes == ()


def test_a_given_format_decides():
    from torchvision import tv_tensors

    boxes = tv_tensors.BoundingBoxes(torch.tensor([[5.0, 5, 2, 2]]), format="XYWH", canvas_size=(9, 9))
    assert describe({"images": [torch.rand(3, 9, 9)], "targets": [{"boxes": boxes}]}).degenerate_boxes == ()


def test_constant_samples():
    x = torch.rand(4, 3, 8, 8)
    x[2] = 0.25
    assert describe({"x": x, "y": torch.arange(4)}).constant_samples == (2,)
    assert describe({"x": torch.rand(4, 9), "weight": torch.ones(4, 9), "y": torch.arange(4)}).constant_samples == ()
    ids = torch.randint(1, 9, (3, 12))
    ids[0] = 0
    assert describe({"ids": ids, "labels": torch.arange(3)}).constant_samples == (0,)


def test_ignored_samples():
    mask = torch.randint(0, 4, (3, 8, 8))
    mask[1] = 255
    facts = describe({"img": torch.rand(3, 3, 8, 8), "mask": mask}, num_classes=4)
    assert facts.ignored_samples == (1,) and facts.labels_out_of_range == ()
    alone = describe({"img": torch.rand(1, 3, 8, 8), "mask": torch.full((1, 8, 8), 255)})
    assert alone.ignored_samples == (0,)
    labels = torch.tensor([[-100, 3], [-100, -100]])
    assert describe({"ids": torch.rand(2, 2), "labels": labels}).ignored_samples == (1,)
    assert describe({"x": torch.rand(3, 2), "y": torch.tensor([0, 1, 255])}).ignored_samples == ()


def test_empty_masks_and_lengths():
    y = (torch.rand(4, 1, 8, 8) > 0.5).float()
    y[3] = 0
    assert describe({"x": torch.rand(4, 1, 8, 8), "y": y}).empty_targets == (3,)
    lengths = torch.tensor([3, 0, 2])
    assert describe({"x": torch.rand(3, 5), "lengths": lengths, "y": torch.ones(3)}).empty_targets == (1,)


def test_labels_out_of_range():
    y = torch.tensor([0, 7, -3, -100])
    assert describe({"x": torch.rand(4, 2), "y": y}, num_classes=5).labels_out_of_range == ((1, 7.0), (2, -3.0))
    assert describe({"x": torch.rand(4, 2), "y": y}).labels_out_of_range == ((2, -3.0),)


def test_an_ordinary_batch_has_no_findings():
    facts = describe({"x": torch.randn(8, 3, 4, 4), "y": torch.arange(8)}, num_classes=8)
    assert not (facts.degenerate_boxes or facts.constant_samples or facts.ignored_samples)
    assert not (facts.empty_targets or facts.labels_out_of_range)


leaf = st.one_of(
    st.builds(
        lambda shape, dtype: torch.zeros(shape, dtype=dtype),
        st.lists(st.integers(0, 3), max_size=4),
        st.sampled_from([torch.float32, torch.int64, torch.bool, torch.complex64, torch.bfloat16, torch.uint8]),
    ),
    st.none(), st.integers(), st.text(max_size=3),
)  # fmt: skip
trees = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner), max_leaves=8
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["x", "y", "boxes", "len", "targets"]), trees, max_size=3))
def test_odd_batches_raise_nothing(items):
    describe(items, num_classes=3)


def test_rotated_boxes_have_an_angle_and_numbered_ones_an_image():
    rotated = torch.tensor([[9.0, 8, 4, 2, 0.3], [12, 9, 5, 0, -1.1], [20, 18, 6, 3, 0.0]])
    assert describe({"x": torch.rand(3, 8), "boxes": rotated}).degenerate_boxes == ((1, (12.0, 9.0, 5.0, 0.0)),)
    numbered = torch.tensor([[0.0, 5, 0, 9, 8], [1, 4, 3, 7, 6], [2, 1, 2, 6, 9]])
    assert describe({"x": torch.rand(3, 8), "boxes": numbered}).degenerate_boxes == ()


def test_boxes_are_mended_by_the_convention_of_the_most():
    corners = torch.tensor([[1.0, 1, 5, 5], [9, 2, 4, 6], [3, 3, 3, 9]])
    assert are_corners(corners) and mended(corners, True).tolist() == [[1, 1, 5, 5], [4, 2, 9, 6], [3, 3, 4, 9]]
    sizes = torch.tensor([[50.0, 60, 10, 12], [40, 41, 0, 9], [30, 31, -7, 8], [0, 0, 0, 0]])
    assert are_corners(sizes[:2]) is None and are_corners(sizes[[0, 0, 1, 0, 0]]) is False
    assert mended(sizes, False).tolist() == [[50, 60, 10, 12], [40, 41, 1, 9], [30, 31, 7, 8], [0, 0, 0, 0]]


def test_a_label_that_only_one_sample_has():
    mask = torch.randint(0, 2, (5, 6, 6))
    mask[3, 0, 0] = 255
    assert describe({"x": torch.rand(5, 3), "mask": mask}).odd_labels == ((3, 255.0),)
    assert describe({"x": torch.rand(5, 3), "mask": mask % 2}).odd_labels == ()
    assert describe({"x": torch.rand(6, 3), "y": torch.tensor([0, 1, 2, 0, 1, 2])}).odd_labels == ()


def test_what_every_sample_reaches():
    x = torch.rand(6, 3)
    x[:, 1] += 2e18
    (column,) = (t for t in describe({"x": x, "y": torch.arange(6)}).tensors if t.name == "x")
    x[1:, 1] = 0.5
    (stray,) = (t for t in describe({"x": x, "y": torch.arange(6)}).tensors if t.name == "x")
    assert column.extra["all_reach"] >= 1e18 > stray.extra["all_reach"]
