"""The numbers: mpmath's with 60 digits to a few units in the last place, and PyTorch's own where those are exact."""

import pytest
import torch
import torchvision
from tests.parts import suite
from tests.parts.torch.framework import EAGER, FORMULA
from torch.nn import functional as F

from whynan.torch import losses, ops


@pytest.mark.parametrize("dtype", suite.DTYPES)
@pytest.mark.parametrize("index", range(len(suite.ELEMENT_REFERENCES)), ids=[r[0] for r in suite.ELEMENT_REFERENCES])
@pytest.mark.parametrize("framework", [EAGER, FORMULA], ids=["eager", "formula"])
def test_elementwise(framework, index, dtype):
    suite.against_mpmath(framework, index, dtype)


@pytest.mark.parametrize("dtype", suite.DTYPES)
@pytest.mark.parametrize("framework", [EAGER, FORMULA], ids=["eager", "formula"])
def test_rows(framework, dtype):
    suite.row_references(framework, dtype)


def both(part, plain, *inputs):
    """Compare values and gradients of a part, eager and by its formula, with those of a plain function."""
    inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    floats = [x for x in inputs if x.is_floating_point()]
    values = []
    for function in (part, plain):
        value = function(*inputs)
        values.append((value, torch.autograd.grad(value.sum(), floats)))
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equal_to_pytorch_where_that_is_exact(reduction):
    torch.manual_seed(0)
    kind = {"reduction": reduction}
    x, y, z = torch.randn(40), torch.rand(40), torch.randn(40)
    p = torch.rand(40) * 0.9 + 0.05
    logits, labels, weight = torch.randn(12, 5, 3), torch.randint(0, 5, (12, 3)), torch.rand(5)
    labels[::4, 1] = -100
    boxes = torch.tensor([[0.0, 0, 2, 3], [1, 1, 4, 5], [0, 0, 10, 2]])
    others = torch.tensor([[1.0, 1, 3, 4], [1, 2, 4, 6], [5, 5, 6, 8]])
    both(lambda a: losses.binary_cross_entropy(a, y, **kind), lambda a: F.binary_cross_entropy(a, y, **kind), p)
    both(
        lambda a: losses.binary_cross_entropy(a, y, z.abs(), **kind),
        lambda a: F.binary_cross_entropy(a, y, z.abs(), **kind),
        p,
    )
    for extra in ({}, {"weight": z.abs()}, {"pos_weight": torch.tensor(3.0)}):
        both(
            lambda a, extra=extra: losses.binary_cross_entropy_with_logits(a, y, **extra, **kind),
            lambda a, extra=extra: F.binary_cross_entropy_with_logits(a, y, **extra, **kind),
            x,
        )
    for extra in (
        {},
        {"weight": weight},
        {"label_smoothing": 0.2},
        {"weight": weight, "label_smoothing": 0.2},
        {"ignore_index": 2},
    ):
        target = labels if "ignore_index" not in extra else labels.clamp(min=0)
        both(
            lambda a, extra=extra, target=target: losses.cross_entropy(a, target, **extra, **kind),
            lambda a, extra=extra, target=target: F.cross_entropy(a, target, **extra, **kind),
            logits,
        )
    soft = torch.softmax(torch.randn(12, 5, 3), 1)
    both(
        lambda a: losses.cross_entropy(a, soft, weight, **kind),
        lambda a: F.cross_entropy(a, soft, weight, **kind),
        logits,
    )
    both(
        lambda a: losses.focal_loss(a, y.round(), **kind),
        lambda a: torchvision.ops.sigmoid_focal_loss(a, y.round(), **kind),
        x,
    )
    both(
        lambda a: losses.focal_loss(a, y.round(), gamma=1.5, alpha=None, **kind),
        lambda a: torchvision.ops.sigmoid_focal_loss(a, y.round(), gamma=1.5, alpha=-1, **kind),
        x,
    )
    for beta in (1.0, 0.1, 0.0):
        both(
            lambda a, b, beta=beta: losses.smooth_l1_loss(a, b, beta=beta, **kind),
            lambda a, b, beta=beta: F.smooth_l1_loss(a, b, beta=beta, **kind),
            x, z,
        )  # fmt: skip
    both(
        lambda a, b: losses.gaussian_nll_loss(a, y, b, **kind),
        lambda a, b: F.gaussian_nll_loss(a, y, b.exp(), **kind),
        x, z,
    )  # fmt: skip
    named = {"giou": "generalized_box_iou_loss", "diou": "distance_box_iou_loss", "ciou": "complete_box_iou_loss"}
    for ours, theirs in named.items():
        both(
            lambda a, b, ours=ours: getattr(losses, f"{ours}_loss")(a, b, **kind),
            lambda a, b, theirs=theirs: getattr(torchvision.ops, theirs)(a, b, **kind),
            boxes, others,
        )  # fmt: skip
    frames, texts = torch.randn(20, 3, 6), torch.randint(1, 6, (3, 4))
    lengths = (torch.full((3,), 20), torch.tensor([4, 3, 0]))
    both(
        lambda a: losses.ctc_loss(a.log_softmax(2), texts, *lengths, **kind),
        lambda a: F.ctc_loss(a.log_softmax(2), texts, *lengths, **kind),
        frames,
    )


def test_ctc_formula_equals_the_kernel():
    torch.manual_seed(1)
    frames, texts = (
        torch.randn(15, 4, 6, dtype=torch.float64),
        torch.tensor([[1, 1, 2], [3, 4, 5], [2, 0, 0], [1, 2, 3]]),
    )
    lengths = (torch.tensor([15, 2, 7, 12]), torch.tensor([3, 3, 1, 0]))
    for reduction in ("none", "mean"):
        both(
            lambda a, r=reduction: FORMULA.losses.ctc_loss(a.log_softmax(2), texts, *lengths, reduction=r),
            lambda a, r=reduction: F.ctc_loss(a.log_softmax(2), texts, *lengths, reduction=r, zero_infinity=True),
            frames,
        )
    joined = torch.cat([row[:length] for row, length in zip(texts, lengths[1], strict=True)])
    torch.testing.assert_close(
        losses.ctc_loss(frames.log_softmax(2), joined, *lengths),
        losses.ctc_loss(frames.log_softmax(2), texts, *lengths),
    )


def test_overlap():
    p, y = torch.rand(3, 4, 5), torch.randint(0, 2, (3, 4, 5)).float()
    hit, sizes = (p * y).sum((1, 2)), (p.sum((1, 2)), y.sum((1, 2)))
    torch.testing.assert_close(losses.dice_loss(p, y, reduction="none"), 1 - 2 * hit / sum(sizes))
    torch.testing.assert_close(
        losses.dice_loss(p, y, smooth=1.0, reduction="none"), 1 - (2 * hit + 1) / (sum(sizes) + 1)
    )
    torch.testing.assert_close(losses.jaccard_loss(p, y, reduction="none"), 1 - hit / (sum(sizes) - hit))
    tversky = 1 - hit / (hit + 0.3 * (sizes[0] - hit) + 0.7 * (sizes[1] - hit))
    torch.testing.assert_close(losses.tversky_loss(p, y, 0.3, 0.7, reduction="none"), tversky)
    assert losses.dice_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0
    ignored = torch.full((2, 3), 255.0)
    assert losses.dice_loss(torch.rand(2, 3), ignored, ignore_index=255).item() == 0


def test_lovasz_is_the_iou_for_hard_predictions():
    target = torch.tensor([0, 0, 1, 1, 1, 2])
    wrong = torch.tensor([0, 1, 1, 1, 0, 2])
    loss = losses.lovasz_softmax_loss(F.one_hot(wrong, 3).float(), target, from_logits=False, reduction="none")
    torch.testing.assert_close(loss, 1 - torch.tensor([1 / 3, 2 / 4, 1.0]))


def test_boxes_come_back():
    boxes = torch.tensor([[1.0, 2, 5, 9], [0, 0, 3, 3]])
    references = torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 4]])
    coder = torchvision.models.detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    offsets = losses.encode_boxes(boxes, references, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(offsets, coder.encode_single(boxes, references))
    torch.testing.assert_close(losses.decode_boxes(offsets, references, (10.0, 10.0, 5.0, 5.0)), boxes)
    assert losses.encode_boxes(torch.zeros(1, 4), references[:1]).isfinite().all()


def test_detection_terms_equal_torchvision():
    torch.manual_seed(0)
    logits, boxes, labels, targets = torch.randn(9, 4), torch.randn(9, 16), torch.randint(0, 4, (9,)), torch.randn(9, 4)
    want = torchvision.models.detection.roi_heads.fastrcnn_loss(logits, boxes, [labels], [targets])
    for f in (EAGER, FORMULA):
        got = f.losses.fast_rcnn_loss(logits, boxes, labels, targets)
        assert list(got) == ["loss_classifier", "loss_box_reg"]
        torch.testing.assert_close(tuple(got.values()), want)
    anchors = torch.tensor([1, 0, -1, 1, 0, 0, -1, 1, 0])
    kept, positive = anchors >= 0, anchors > 0
    for f in (EAGER, FORMULA):
        got = f.losses.rpn_loss(logits[:, 0], boxes[:, :4], anchors, targets)
        torch.testing.assert_close(
            got["loss_objectness"], F.binary_cross_entropy_with_logits(logits[kept, 0], positive[kept].float())
        )
        summed = F.smooth_l1_loss(boxes[positive, :4], targets[positive], beta=1 / 9, reduction="sum")
        torch.testing.assert_close(got["loss_rpn_box_reg"], summed / kept.sum())


def test_embeddings():
    torch.manual_seed(0)
    a, b, same = torch.randn(6, 8), torch.randn(6, 8), torch.tensor([0, 1, 0, 1, 1, 0])
    both(lambda x: losses.pairwise_distance(x, b), lambda x: torch.linalg.vector_norm(x - b, dim=-1), a)
    both(lambda x: losses.cosine_distance(x, b), lambda x: 1 - F.cosine_similarity(x, b), a)
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
    torch.testing.assert_close(losses.info_nce_loss(a, b, 0.1), F.cross_entropy(logits, torch.arange(6)))
    distance = torch.linalg.vector_norm(a - b, dim=1)
    want = 0.5 * torch.where(same == 1, distance**2, (3 - distance).clamp(min=0) ** 2).mean()
    torch.testing.assert_close(losses.contrastive_loss(a, b, same, margin=3.0), want)


def test_masks():
    x = torch.randn(3, 4)
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    weights = ops.softmax(x, 1, mask)
    torch.testing.assert_close(weights[0], torch.softmax(x[0].masked_fill(~mask[0], -torch.inf), 0))
    assert not weights[1].any()
    torch.testing.assert_close(ops.masked_mean(x, mask), x[mask].mean())
    torch.testing.assert_close(ops.masked_mean(x, mask, 1)[1], torch.tensor(0.0))
    dirty = x.clone()
    dirty[1] = float("nan")
    assert ops.masked_mean(dirty, mask).isfinite()
