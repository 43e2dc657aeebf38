"""Clipping, schedules, layers and initialization for MindSpore."""

import mindspore
import numpy as np
from mindspore import Tensor

from whynan.mindspore import clip, init, layers, schedules


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
