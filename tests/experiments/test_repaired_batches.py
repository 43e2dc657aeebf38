"""What `fix-labels` makes of targets, and how the attempt that did not help is told."""

import torch
import torch.nn.functional as F

from whynan.adapters.torch.data.facts import mended
from whynan.adapters.torch.experiments.batches import UnitTargets, _unit
from whynan.adapters.torch.experiments.run import _failure
from whynan.adapters.torch.sites import Event


def test_shares_are_kept_within_0_and_1() -> None:
    assert _unit("mask", torch.tensor([0.0, 1.5])).tolist() == [0.0, 1.0]
    assert _unit("target", torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]


def test_boxes_are_in_pixels_and_left_alone() -> None:
    boxes = torch.tensor([[10.0, 10.0, 50.0, 60.0]])
    assert _unit("targets[0].boxes", boxes) is boxes
    assert _unit("gt_bboxes", boxes) is boxes


def test_classes_are_left_alone() -> None:
    labels = torch.tensor([3, 7, 1])
    assert _unit("labels", labels) is labels


def test_a_batch_that_a_guard_ended_was_refused() -> None:
    assert _failure(Event("input", "exception", [], "targets", "nan")) == "the batch was refused"
    x = torch.tensor([float("nan")])
    assert _failure(Event("input", "exception", [x], "scores", "nan")) == "the input scores is nan"
    assert _failure(Event("loss", "backward", [x], "loss", "nan")) == "loss is nan"


def test_a_missing_corner_is_the_other_one() -> None:
    nan = float("nan")
    boxes = torch.tensor([[10.0, nan, 50.0, 60.0], [nan, 10.0, nan, 40.0]])
    assert mended(boxes, True).tolist() == [[10.0, 60.0, 50.0, 61.0], [0.0, 10.0, 1.0, 40.0]]
    assert mended(torch.tensor([[10.0, 10.0, nan, 60.0]]), False)[0, 2] > 0


def test_binary_losses_get_targets_within_0_and_1() -> None:
    logit, mask = torch.zeros(4), torch.tensor([0.0, 255.0, 255.0, 1.0])
    with UnitTargets() as mode:
        given = F.binary_cross_entropy_with_logits(logit, mask)
        named = torch.nn.BCELoss()(torch.sigmoid(logit), target=mask)
    assert mode.n_applied >= 2
    assert abs(given.item() - 0.693147) < 1e-5 and abs(named.item() - 0.693147) < 1e-5
