"""Clipping, schedules, layers and initialization for Keras."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from whynan.formulas import schedules as lists
from whynan.keras import clip, init, layers, schedules


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_clip():
    a, b = (keras.ops.convert_to_tensor(np.array(x, "float32")) for x in ([3.0, 4.0], [12.0]))
    clipped, total = clip.clip_by_global_norm([a, None, b], 1.0)
    np.testing.assert_allclose(numpy(total), 13.0, rtol=1e-5)
    np.testing.assert_allclose(numpy(clipped[0]), np.array([3.0, 4.0]) / 13, rtol=1e-5)
    assert clipped[1] is None
    bad = keras.ops.convert_to_tensor(np.array([np.nan, 1.0], "float32"))
    clipped, total = clip.clip_by_global_norm([a, bad], 1.0)
    assert np.isnan(numpy(total)) and np.isnan(numpy(clipped[1])[0])
    np.testing.assert_allclose(numpy(clipped[0]), [0.6, 0.8], rtol=1e-5)
    np.testing.assert_array_equal(numpy(clip.clip_by_value([bad * 5], 1.0)[0]), [np.nan, 1.0])


def test_schedules_equal_the_lists():
    for ours, theirs in (
        (schedules.warmup_cosine(1.0, 5, 20, 0.1), lists.warmup_cosine(1.0, 5, 20, 0.1)),
        (schedules.warmup_polynomial(1.0, 5, 20, 2.0), lists.warmup_polynomial(1.0, 5, 20, 2.0)),
        (schedules.warmup_step(1.0, 5, [10, 15]), lists.warmup_step(1.0, 5, 20, [10, 15])),
    ):
        np.testing.assert_allclose([float(ours(step)) for step in range(20)], theirs, rtol=1e-5, atol=1e-6)
        again = schedules.Warmup.from_config(ours.get_config())
        assert float(again(7)) == float(ours(7))


def test_layers():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype("float32")
    norm = layers.ChannelLayerNormalization()
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(numpy(norm(x)), want, rtol=1e-4, atol=1e-5)
    assert np.isfinite(numpy(norm(x * 1e30))).all()
    batch_norm = layers.BatchNormalization()
    batch_norm(x, training=True)
    before = [np.array(w) for w in batch_norm.get_weights()]
    assert np.isfinite(numpy(batch_norm(x[:1, :1, :1], training=True))).all()
    for old, new in zip(before, batch_norm.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    objectness, deltas = layers.RPNHead(8, 3)(x)
    assert objectness.shape == (2, 3, 3, 3) and deltas.shape == (2, 3, 3, 12)
    model = keras.Sequential(
        [keras.layers.Input((4, 4, 3)), keras.layers.Conv2D(8, 3), keras.layers.BatchNormalization()]
    )
    replaced = layers.replace_batch_norm(model, 4)
    assert isinstance(replaced.layers[-1], keras.layers.GroupNormalization) and replaced.layers[-1].groups == 4
    np.testing.assert_array_equal(replaced.layers[0].get_weights()[0], model.layers[0].get_weights()[0])
    np.testing.assert_allclose(numpy(keras.ops.sigmoid(init.focal_prior(0.02)((3,)))), 0.02, rtol=1e-5)
