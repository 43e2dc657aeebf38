"""Clipping, schedules, layers and initialization for MindSpore."""

import mindspore
import numpy as np
from mindspore import Tensor, nn
from tests.parts import suite

from whynan.mindspore import clip, init, layers, losses, ops, schedules


def test_clip():
    a, b = Tensor(np.array([3.0, 4.0], np.float32)), Tensor(np.array([12.0], np.float32))
    clipped, total = clip.clip_by_global_norm((a, b), 1.0)
    assert abs(float(total) - 13) < 1e-4
    np.testing.assert_allclose(clipped[0].asnumpy(), np.array([3.0, 4.0]) / 13, rtol=1e-4)
    bad = Tensor(np.array([np.nan, 5.0], np.float32))
    clipped, total = clip.clip_by_global_norm((a, bad), 1.0)
    assert np.isnan(float(total))
    np.testing.assert_allclose(clipped[0].asnumpy(), [0.6, 0.8], rtol=1e-4)
    np.testing.assert_array_equal(clip.clip_by_value([bad], 1.0)[0].asnumpy(), [np.nan, 1.0])
    np.testing.assert_allclose(clip.clip_adaptive([a], [a * 0 + 1])[0].asnumpy(), [0.00849, 0.01131], rtol=1e-3)
    zclip = clip.ZClip(warmup_steps=5)
    for _ in range(8):
        zclip((a,))
    clipped, norm = zclip((a * 100,))
    assert abs(norm - 500) < 1e-2 and np.linalg.norm(clipped[0].asnumpy()) < 6
    accumulate = clip.Accumulator()
    accumulate.add((a,), 2)
    accumulate.add((a * 2,), 1)
    np.testing.assert_allclose(accumulate.finish()[0].asnumpy(), [3.0, 4.0])


def test_model():
    images = Tensor(np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32))
    model = nn.SequentialCell(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dense(288, 4))
    assert isinstance(layers.replace_batch_norm(model, 4)[1], nn.GroupNorm) and model[1].num_groups == 4
    assert set(init.initialize(model, images).done.values()) == {"kaiming normal"}
    assert all(abs(scale.std - 1) < 0.1 for scale in init.lsuv_(model, images) if scale.kind in ("Conv2d", "Dense"))
    init.detection_prior_(model[4], 0.9)
    np.testing.assert_allclose(mindspore.ops.softmax(model[4].bias).asnumpy()[0], 0.9, rtol=1e-4)
    optimizer = nn.Momentum(model.trainable_params(), 0.1, 0.9)
    before = model[4].weight.asnumpy().copy()
    found = schedules.lr_range_test(
        model, optimizer, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), [(images, 1.0)], steps=15
    )
    assert found.suggestion and found.diverged_at
    np.testing.assert_array_equal(before, model[4].weight.asnumpy())
    objectness, deltas = layers.RPNHead(3, 2)(images)
    assert objectness.shape == (4, 2, 6, 6) and deltas.shape == (4, 8, 6, 6)


def test_batch_norm_of_one():
    x = Tensor(np.arange(6, dtype=np.float32))
    for kind, shape in (
        (layers.BatchNorm1d, (1, 6)),
        (layers.BatchNorm2d, (1, 6, 1, 1)),
        (layers.BatchNorm3d, (1, 6, 1, 1, 1)),
    ):
        norm = kind(6)
        norm.set_train()
        np.testing.assert_allclose(norm(x.reshape(shape)).asnumpy().ravel(), np.arange(6), rtol=1e-4)
    plain, safe = nn.BatchNorm2d(6), layers.BatchNorm2d(6)
    images = Tensor(np.random.default_rng(0).normal(size=(2, 6, 3, 3)).astype(np.float32))
    for norm in (plain, safe):
        norm.set_train()
        norm(images)
    np.testing.assert_array_equal(plain.moving_variance.asnumpy(), safe.moving_variance.asnumpy())


def test_layers_and_schedules():
    x = np.random.default_rng(0).normal(size=(2, 6, 3, 3)).astype(np.float32)
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    norm = layers.ChannelLayerNorm(6)
    np.testing.assert_allclose(norm(Tensor(x)).asnumpy(), want, rtol=1e-3, atol=1e-4)
    assert np.isfinite(norm(Tensor(x * np.float32(1e30))).asnumpy()).all()
    rates = schedules.warmup_cosine(0.1, 5, 20)
    optimizer = mindspore.nn.SGD(norm.trainable_params(), learning_rate=rates)
    assert optimizer.dynamic_lr and len(rates) == 20 and max(rates) == 0.1
    assert init.focal_prior(0.5) is not None


def test_migration():
    names = {"mindspore": mindspore, "ops": ops, "losses": losses, "clip": clip}
    suite.migration("MindSpore", Tensor, lambda x: x.asnumpy(), **names)
