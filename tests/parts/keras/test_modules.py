"""Clipping, schedules, layers and initialization for Keras."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from tests.parts import suite

from whynan.formulas import schedules as lists
from whynan.keras import clip, init, layers, losses, ops, schedules


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
    np.testing.assert_allclose(
        numpy(clip.clip_adaptive([a, None], [a * 0 + 1, None])[0]), [0.00849, 0.01131], rtol=1e-3
    )
    zclip = clip.ZClip(warmup_steps=5)
    for _ in range(8):
        zclip([a, None])
    clipped, norm = zclip([a * 100, None])
    assert abs(norm - 500) < 1e-2 and np.linalg.norm(numpy(clipped[0])) < 6
    accumulate = clip.Accumulator()
    accumulate.add([a, None], 2)
    accumulate.add([a * 2, None], 1)
    np.testing.assert_allclose(numpy(accumulate.finish()[0]), [3.0, 4.0])


def small_model():
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=5.0)
    first = keras.layers.Dense(16, activation="relu", kernel_initializer=wide)
    last = keras.layers.Dense(4, bias_initializer=init.detection_prior(0.9))
    return keras.Sequential([keras.layers.Input((8,)), first, last])


def test_initialization_of_a_model():
    model, x = small_model(), np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    np.testing.assert_allclose(numpy(keras.ops.softmax(model.layers[-1].bias))[0], 0.9, rtol=1e-4)
    report = init.initialize(model, x)
    assert report.before[0].std > 5 > report.after[0].std
    assert report.done == {layer.name: "kaiming normal" for layer in model.layers} and "std before" in str(report)
    assert all(abs(scale.std - 1) < 0.1 for scale in init.lsuv_(model, x))


def test_range_test():
    model, x = small_model(), np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    before = [w.copy() for w in model.get_weights()]
    found = schedules.lr_range_test(model, [(x, x[:, :4])], steps=20)
    assert 1e-7 < found.suggestion < 1 and found.diverged_at is not None
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
    assert abs(float(model.optimizer.learning_rate) - 0.01) < 1e-6 and int(model.optimizer.iterations) == 0


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


def test_migration():
    suite.migration("Keras", keras.ops.convert_to_tensor, numpy, keras=keras, ops=ops, losses=losses)
