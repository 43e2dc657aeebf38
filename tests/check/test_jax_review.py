"""The review of a JAX step: what its equations and its update tell."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from whynan.adapters.jax.check.judge import Enough, JaxRecording
from whynan.check.session import CheckOptions
from whynan.check.suspects import CheckResult
from whynan.launch import host

RNG = np.random.default_rng(0)
X = RNG.normal(0, 1, (12, 6)).astype(np.float32)
Y = np.arange(12) % 5
W = {"w": jnp.asarray(RNG.normal(0, 0.4, (6, 5)).astype(np.float32))}


def said(loss: Callable[..., Any], rate: float = 0.01, eps: float | None = None, **batch: Any) -> list[tuple[str, str]]:
    """Train two steps with a loss of (params, x, y); return what the review says of the second."""
    return [(f.check, f.severity) for f in checked(loss, rate, eps, **batch).review]


def suspects(loss: Callable[..., Any]) -> list[tuple[str, str]]:
    return [(s.cause, s.op) for s in checked(loss).suspects]


def checked(loss: Callable[..., Any], rate: float = 0.01, eps: float | None = None, **batch: Any) -> CheckResult:
    host.user_codes.setdefault(__file__, [])
    recording = JaxRecording(2)
    recording.attach()
    try:
        x, y = batch.get("x", X), batch.get("y", Y)
        params = batch.get("params", W)
        square = jax.tree_util.tree_map(jnp.zeros_like, params)

        @jax.jit
        def step(params: Any, square: Any, x: Any, y: Any) -> Any:
            value, grads = jax.value_and_grad(loss)(params, x, y)
            if eps is None:
                return jax.tree_util.tree_map(lambda p, g: p - rate * g, params, grads), square, value
            square = jax.tree_util.tree_map(lambda s, g: 0.9 * s + 0.1 * g * g, square, grads)
            new = jax.tree_util.tree_map(lambda p, g, s: p - rate * g / (jnp.sqrt(s) + eps), params, grads, square)
            return new, square, value

        with pytest.raises(Enough):
            for _ in range(3):
                params, square, _value = step(params, square, x, y)
        recording.detach()
        result = CheckResult("test")
        recording.judge(CheckOptions("test", search=False), result, lambda text: None, False)
        assert result.n_nodes, result.notes
        return result
    finally:
        recording.watch.uninstall()
        host.user_codes.clear()


def test_a_logsumexp_of_jax_is_no_suspect() -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        z = 90 * (x @ p["w"])
        return (jax.nn.logsumexp(z, axis=1) - z[:, 0]).mean()

    assert suspects(loss) == []


def picked(log_p: Any, y: Any) -> Any:
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def test_nothing_is_said_of_an_ordinary_step() -> None:
    assert said(lambda p, x, y: picked(jax.nn.log_softmax(x @ p["w"]), y), eps=1e-8) == []


def test_softmax_into_cross_entropy() -> None:
    found = said(lambda p, x, y: picked(jax.nn.log_softmax(jax.nn.softmax(x @ p["w"])), y))
    assert ("loss-input-mismatch", "warning") in found


def test_logits_into_a_loss_of_probabilities() -> None:
    found = said(lambda p, x, y: picked(jnp.log(jnp.clip(x @ p["w"], 1e-7, 1 - 1e-7)), y))
    assert ("loss-input-mismatch", "error") in found


def test_a_sigmoid_into_a_loss_on_logits() -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        z, t = jax.nn.sigmoid((x @ p["w"])[:, 0]), (y > 2).astype(jnp.float32)
        return (jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean()

    assert ("loss-input-mismatch", "warning") in said(loss)


def test_a_label_that_the_head_has_no_class_for() -> None:
    found = said(lambda p, x, y: picked(jax.nn.log_softmax(x @ p["w"]), y), y=np.arange(12) % 6)
    assert ("label-range", "error") in found
    found = said(
        lambda p, x, y: -(jax.nn.one_hot(y, 5) * jax.nn.log_softmax(x @ p["w"])).sum(1).mean(), y=np.arange(12) % 6
    )
    assert ("label-range", "error") in found


def test_classes_as_numbers_to_regress() -> None:
    found = said(lambda p, x, y: jnp.mean(((x @ p["w"])[:, 0] - y) ** 2))
    assert ("regression-on-classes", "note") in found


def test_a_large_first_loss() -> None:
    found = said(lambda p, x, y: picked(jax.nn.log_softmax(90 * x @ p["w"]), y), rate=1e-6)
    assert ("initial-loss", "warning") in found


def test_an_epsilon_of_zero() -> None:
    found = said(lambda p, x, y: picked(jax.nn.log_softmax(x @ p["w"]), y), eps=0.0)
    assert ("optimizer-eps", "error") in found


def test_a_step_that_overshoots() -> None:
    found = said(lambda p, x, y: jnp.mean((x @ p["w"] - 1.0) ** 2), rate=8.0)
    assert ("learning-rate", "warning") in found
    assert ("gradient-scale", "warning") in found


def test_statistics_of_a_tiny_batch() -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        h = x @ p["w"]
        h = (h - h.mean(0)) * jax.lax.rsqrt(h.var(0) + 1e-5)
        return picked(jax.nn.log_softmax(h), y)

    assert ("batch-norm-batch", "warning") in said(loss, x=X[:3], y=Y[:3])
    assert ("batch-norm-batch", "warning") not in said(loss)


def test_saturated_units_and_growing_activations() -> None:
    params = {"w": W["w"], "v": jnp.full((5, 5), 4e5, jnp.float32)}
    found = said(lambda p, x, y: jnp.mean(jnp.tanh((x @ p["w"] + 3) @ p["v"])), params=params)
    assert ("saturated-units", "warning") in found
    assert ("activation-scale", "warning") in found
