"""Clipping, schedules, layers and initialization for JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.parts import suite

from whynan.formulas import schedules as lists
from whynan.jax import clip, init, layers, losses, ops, schedules


def test_clip():
    tree = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}
    clipped, total = jax.jit(lambda g: clip.clip_by_global_norm(g, 1.0))(tree)
    np.testing.assert_allclose(total, 13.0)
    np.testing.assert_allclose(clipped["a"], np.array([3.0, 4.0]) / 13, rtol=1e-5)
    tree["b"] = jnp.array([jnp.nan])
    clipped, total = clip.clip_by_global_norm(tree, 1.0)
    assert not jnp.isfinite(total) and jnp.isnan(clipped["b"]).all()
    np.testing.assert_allclose(clipped["a"], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_array_equal(clip.clip_by_value({"a": jnp.array([5.0, jnp.inf])}, 1.0)["a"], [1.0, np.inf])
    units = clip.clip_adaptive({"w": jnp.ones((4, 2))}, {"w": jnp.ones((4, 2))}, 0.01)["w"]
    np.testing.assert_allclose(units, 0.01, rtol=1e-5)
    broken = clip.clip_adaptive({"w": jnp.array([[jnp.inf, 5.0], [1.0, 5.0]])}, {"w": jnp.ones((2, 2))})["w"]
    np.testing.assert_allclose(broken, [[np.inf, 0.01], [1.0, 0.01]], rtol=1e-5)


def test_running_statistics_and_accumulation():
    zclip = clip.ZClip(warmup_steps=5)
    for _ in range(8):
        zclip({"w": jnp.array([3.0, 4.0])})
    clipped, norm = zclip({"w": jnp.array([300.0, 400.0])})
    assert abs(norm - 500) < 1e-3 and float(jnp.linalg.norm(clipped["w"])) < 6
    clipped, norm = zclip({"w": jnp.array([300.0, jnp.nan])})
    assert np.isnan(norm) and clipped["w"][0] == 300 and zclip.mean < 6
    accumulate = clip.Accumulator()
    accumulate.add({"w": jnp.array([2.0, 4.0])}, 2)
    accumulate.add({"w": jnp.array([4.0, 8.0])}, 1)
    np.testing.assert_allclose(accumulate.finish()["w"], [2.0, 4.0])
    assert accumulate.finish() is None


def test_activation_scale_and_range_test(tmp_path):
    scales = init.activation_scale({"dense": jnp.array([1.0, 3.0]), "out": jnp.array([jnp.inf])})
    assert [(s.name, s.std, s.non_finite) for s in scales[:1]] == [("dense", 1.0, 0.0)] and scales[1].non_finite == 1
    start = init.detection_prior(0.9)(jax.random.key(0), (4,))
    np.testing.assert_allclose(jax.nn.softmax(start)[0], 0.9, rtol=1e-5)

    def update(w, rate, batch):
        loss, slope = jax.value_and_grad(lambda w: (w - batch) ** 2)(w)
        return w - rate * slope, loss

    found = schedules.lr_range_test(jax.jit(update), jnp.array(5.0), [1.0, 1.1], lowest=1e-3, highest=100.0, steps=40)
    assert 1e-3 < found.suggestion < 1 and found.diverged_at > 0.9
    found.plot(tmp_path / "rates.svg")
    assert (tmp_path / "rates.svg").stat().st_size > 1000


def test_schedules_equal_the_lists():
    for ours, theirs in (
        (schedules.warmup_cosine(1.0, 5, 20, 0.1), lists.warmup_cosine(1.0, 5, 20, 0.1)),
        (schedules.warmup_polynomial(1.0, 5, 20, 2.0), lists.warmup_polynomial(1.0, 5, 20, 2.0)),
        (schedules.warmup_step(1.0, 5, [10, 15]), lists.warmup_step(1.0, 5, 20, [10, 15])),
    ):
        np.testing.assert_allclose([float(ours(step)) for step in range(20)], theirs, rtol=1e-5, atol=1e-7)


def test_layer_norm_and_priors():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)))
    want = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layers.layer_norm(x), want, rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda v: layers.layer_norm(v, jnp.ones(8), axis=-1).sum())(x * 1e30)).all()
    bias = init.focal_prior(0.02)(jax.random.key(0), (3,))
    np.testing.assert_allclose(jax.nn.sigmoid(bias), 0.02, rtol=1e-5)
    with pytest.raises(ValueError, match="prior"):
        init.focal_prior(1.0)
    assert init.by_nonlinearity("tanh")(jax.random.key(0), (3, 4)).shape == (3, 4)


def test_migration():
    names = {"jax": jax, "jnp": jnp, "optax": optax, "ops": ops, "losses": losses, "clip": clip}
    suite.migration("JAX", jnp.asarray, np.asarray, **names)
