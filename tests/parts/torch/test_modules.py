"""Layers, initialization, clipping and schedules."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from whynan.torch import clip, init, layers, schedules

BIG = 1e30


@pytest.mark.parametrize("size", [(0, 3), (1, 1), (5, 2)])
def test_channel_layer_norm_equals_layer_norm(size):
    x = torch.randn(2, 6, *size, requires_grad=True)
    norm = layers.ChannelLayerNorm(6)
    want = nn.functional.layer_norm(x.movedim(1, -1), (6,)).movedim(-1, 1)
    torch.testing.assert_close(norm(x), want)
    for scale in (BIG, 1e-30, 0.0):
        y = norm(x * scale)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert y.isfinite().all() and slope.isfinite().all()
    torch.testing.assert_close(norm(x * BIG), want, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="must be \\(N, 6"):
        norm(x[:, :5])


def test_batch_norm_equals_pytorch_and_survives():
    torch.manual_seed(0)
    ours, theirs = layers.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    one = torch.randn(1, 3, 1, 1, requires_grad=True)
    with pytest.raises(ValueError):
        theirs(one)
    torch.testing.assert_close(ours(one), theirs.eval()(one))
    ours(one).sum().backward()
    assert one.grad.isfinite().all()
    assert ours(x[:0]).shape == (0, 3, 5, 5)
    torch.testing.assert_close(dict(ours.state_dict()), before)
    big = layers.BatchNorm2d(3)
    torch.testing.assert_close(big(x * BIG), nn.BatchNorm2d(3)(x), atol=1e-4, rtol=1e-3)
    assert all(value.isfinite().all() for value in big.state_dict().values())
    assert layers.BatchNorm1d(4)(torch.randn(1, 4)).isfinite().all()
    assert layers.BatchNorm1d(4)(torch.zeros(8, 4)).isfinite().all()
    with pytest.raises(ValueError, match="x has 2 dimensions"):
        ours(torch.randn(2, 3))


def test_replace_batch_norm():
    model = torchvision.models.resnet18()
    weight = model.layer1[0].bn1.weight
    assert layers.replace_batch_norm(model) is model
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert model.layer1[0].bn1.weight is weight
    assert model.bn1.num_groups == 32
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()
    assert layers.replace_batch_norm(nn.BatchNorm1d(10), 4).num_groups == 2


def test_rpn_head_in_faster_rcnn():
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    anchors = model.rpn.anchor_generator.num_anchors_per_location()[0]
    model.rpn.head = layers.RPNHead(256, anchors)
    targets = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
    found = model([torch.rand(3, 64, 64)], targets)
    assert all(value.isfinite() for value in found.values())
    logits, deltas = layers.RPNHead(8, 3)([torch.randn(2, 8, 1, 1) * BIG, torch.randn(2, 8, 4, 5)])
    assert logits[0].shape == (2, 3, 1, 1) and deltas[1].shape == (2, 12, 4, 5)
    assert logits[0].isfinite().all()
    prior = torch.sigmoid(layers.RPNHead(8, 3).cls_logits.bias)
    torch.testing.assert_close(prior, torch.full((3,), 0.01))


def test_initialize_reports_scales():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    for layer in model[::2]:
        nn.init.normal_(layer.weight, std=10.0)
    report = init.initialize(model, torch.randn(128, 64))
    assert report.before[-1].std > 1e4
    assert 0.3 < report.after[-1].std < 3
    assert "kaiming normal" in str(report)
    assert report.done["0"] == "kaiming normal"
    model[4].weight.data.mul_(50)
    after = init.lsuv_(model, torch.randn(128, 64))
    assert all(abs(entry.std - 1) < 0.2 for entry in after if entry.kind == "Linear")
    with pytest.raises(ValueError, match="nonlinearity: 'rule'"):
        init.initialize(model, nonlinearity="rule")


def test_initialize_other_layers_and_priors():
    model = nn.ModuleDict(
        {"lstm": nn.LSTM(5, 6), "gru": nn.GRU(5, 6), "table": nn.Embedding(9, 16, padding_idx=0),
         "attention": nn.MultiheadAttention(8, 2), "norm": nn.LayerNorm(3), "conv": nn.Conv2d(3, 8, 3)}
    )  # fmt: skip
    done = init.initialize(model, nonlinearity="tanh").done
    assert done["lstm"] == "orthogonal, forget gate 1"
    torch.testing.assert_close(model["lstm"].bias_ih_l0[6:12], torch.ones(6))
    gate = model["gru"].weight_hh_l0[:6]
    torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-5, rtol=1e-5)
    assert not model["table"].weight[0].any()
    assert done["conv"].startswith("xavier")
    head = init.focal_prior_(nn.Conv2d(8, 5, 1), 0.02)
    torch.testing.assert_close(torch.sigmoid(head.bias), torch.full((5,), 0.02))
    classifier, boxes = nn.Linear(8, 4), nn.Linear(8, 16)
    init.detection_prior_(classifier, boxes, background=0.9)
    torch.testing.assert_close(torch.softmax(classifier.bias, 0)[0], torch.tensor(0.9))
    with pytest.raises(ValueError, match="without bias"):
        init.focal_prior_(nn.Linear(3, 3, bias=False))


def with_gradients(*gradients):
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.ones(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def test_clip_by_global_norm():
    parameters, others = with_gradients([3.0, 4.0], [12.0]), with_gradients([3.0, 4.0], [12.0])
    torch.testing.assert_close(clip.clip_by_global_norm(parameters, 1.0), nn.utils.clip_grad_norm_(others, 1.0))
    torch.testing.assert_close([p.grad for p in parameters], [p.grad for p in others])
    for bad in (math.nan, math.inf):
        parameters = with_gradients([3.0, 4.0], [bad, 1.0])
        assert not clip.clip_by_global_norm(parameters, 1.0).isfinite()
        torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8]))
        assert not parameters[1].grad[0].isfinite()
    with pytest.raises(RuntimeError, match=r"positions \[1\] of 2"):
        clip.clip_by_global_norm(parameters, 1.0, error_if_nonfinite=True)
    huge = with_gradients([3e38, 3e38], [1.0])
    assert clip.clip_by_global_norm(huge, 1.0).isfinite()
    torch.testing.assert_close(torch.linalg.vector_norm(huge[0].grad), torch.tensor(1.0), atol=0.3, rtol=0)
    assert clip.clip_by_global_norm([nn.Parameter(torch.ones(2))], 1.0) == 0
    with pytest.raises(ValueError, match="max_norm: must be a finite number above 0, is -1"):
        clip.clip_by_global_norm(parameters, -1.0)


def test_clip_by_value_and_adaptive():
    (parameter,) = with_gradients([5.0, -math.inf, math.nan, 0.5])
    clip.clip_by_value([parameter], 1.0)
    np.testing.assert_array_equal(parameter.grad.numpy(), [1.0, -math.inf, math.nan, 0.5])
    weight = nn.Parameter(torch.ones(2, 4))
    weight.grad = torch.tensor([[1.0] * 4, [0.001] * 4])
    clip.clip_adaptive([weight], clip_factor=0.01)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.01] * 4, [0.001] * 4]))
    weight.grad[0, 0] = math.nan
    clip.clip_adaptive([weight])
    assert weight.grad[0, 0].isnan() and weight.grad[1].isfinite().all()


def test_zclip():
    zclip = clip.ZClip(warmup_steps=5)
    torch.manual_seed(0)
    for step in range(30):
        (parameter,) = with_gradients([1.0 + 0.01 * (step % 3)])
        zclip([parameter])
    (spike,) = with_gradients([100.0])
    assert float(zclip([spike])) == pytest.approx(100)
    assert spike.grad.item() < 1.5
    state = zclip.state_dict()
    (bad,) = with_gradients([math.nan])
    assert zclip([bad]).isnan() and bad.grad.isnan().all()
    assert zclip.state_dict() == state
    other = clip.ZClip()
    other.load_state_dict(state)
    assert other.mean == zclip.mean


def test_accumulation_equals_one_batch():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    nn.functional.cross_entropy(model(x), y).backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    accumulate = clip.Accumulator(model.parameters())
    for rows in (slice(0, 4), slice(4, 6), slice(6, 7), slice(7, 7)):
        accumulate.backward(nn.functional.cross_entropy(model(x[rows]), y[rows], reduction="sum"), len(y[rows]))
    assert accumulate.finish() == 7
    torch.testing.assert_close([p.grad for p in model.parameters()], want)


def test_schedules():
    def rates(make, steps=20):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        schedule, found = make(optimizer), []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    cosine = rates(lambda o: schedules.warmup_cosine(o, 5, 20, min_lr=0.1))
    assert cosine[0] == pytest.approx(0.01) and cosine[5] == pytest.approx(1.0)
    assert cosine == pytest.approx([*cosine[:5], *(0.1 + 0.45 * (1 + math.cos(math.pi * i / 15)) for i in range(15))])
    line = rates(lambda o: schedules.warmup_polynomial(o, 5, 20))
    assert line[5:] == pytest.approx([1 - i / 15 for i in range(15)])
    steps = rates(lambda o: schedules.warmup_step(o, 5, [10, 15]))
    assert steps[5:] == pytest.approx([1.0] * 5 + [0.1] * 5 + [0.01] * 5)
    with pytest.raises(ValueError, match="total_steps: must be above warmup_steps=5, is 5"):
        rates(lambda o: schedules.warmup_cosine(o, 5, 5))
    with pytest.raises(ValueError, match="milestones"):
        rates(lambda o: schedules.warmup_step(o, 5, [3]))


def test_range_test(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
    found = schedules.lr_range_test(
        model, optimizer, lambda m, batch: nn.functional.mse_loss(m(batch[0]), batch[1]), batches, 1e-5, 100.0, 60
    )
    assert 1e-3 < found.suggestion < 2
    assert found.diverged_at is not None and found.diverged_at > found.suggestion
    torch.testing.assert_close(dict(model.state_dict()), before)
    assert optimizer.param_groups[0]["lr"] == 0.5
    found.plot(tmp_path / "rates.svg")
    assert "<svg" in (tmp_path / "rates.svg").read_text()
