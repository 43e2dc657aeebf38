"""What a traced JAX step tells: which results are metrics, which operations belong to a derivative."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from whynan.adapters.jax import trace
from whynan.adapters.jax.host import _labels_out_of_range
from whynan.adapters.jax.replay import Call, trace_call
from whynan.adapters.jax.watch import _tagged


def step(params: Any, x: Any) -> Any:
    def loss(p: Any) -> Any:
        return jnp.mean((x @ p["w"] + p["b"]) ** 2), x.sum(0)[:2] / 0.0

    (value, aux), g = jax.value_and_grad(_tagged(loss, True), has_aux=True)(params)
    return jax.tree.map(lambda p, d: p - 0.1 * d, params, g), {"loss": value, "per_class": aux}


def renamed(params: Any, x: Any) -> Any:
    (new, logs) = step(params, x)
    return {"new_w": new["w"], "new_b": new["b"] + logs["per_class"] * 0}, logs["loss"]


@pytest.mark.parametrize(("function", "is_finite"), [(step, True), (renamed, False)])
def test_metric_of_the_first_call(function: Any, is_finite: bool) -> None:
    """A metric of the shape of a bias is none that the next call is given: that is the one of the bias's name."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    call = Call(function, (params, jnp.ones((4, 3))), {}, "train")
    call.is_training = True
    call.set_result(function(params, jnp.ones((4, 3))))
    traced = trace_call(call)
    assert traced.is_finite is is_finite
    assert traced.error is None
    assert bool(traced.harmless) is is_finite


def test_slope_inside_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a physics-informed network holds derivatives: the slope of a root is that, and no division."""
    monkeypatch.setattr(trace, "is_user_file", lambda name: name == __file__)

    def field(w: Any, x: Any) -> Any:
        return w * jnp.tanh(x**0.75)

    def physical(w: Any, x: Any) -> Any:
        def loss(w: Any) -> Any:
            return jnp.mean(jax.vmap(jax.grad(field, argnums=1), (None, 0))(w, x) ** 2)

        value, g = jax.value_and_grad(_tagged(loss, False))(w)
        return w - 0.1 * g, value

    given = jnp.ones(()), jnp.array([0.5, 0.0])
    call = Call(physical, given, {}, "train")
    call.is_training = True
    call.set_result(physical(*given))
    traced = trace_call(call)
    found = traced.interpreter.graph.slice(traced.starts)
    assert found is not None
    assert found.origin is not None
    node = traced.interpreter.graph.nodes[found.origin.index]
    assert (node.name, node.phase, node.framework_op) == ("pow", "backward", "gradient of pow (pow)")


def test_index_outside_of_a_table() -> None:
    def embedded(table: Any, tokens: Any) -> Any:
        return jnp.mean(jnp.take(table, tokens, axis=0) ** 2)

    tokens = jnp.array([[17, 3], [4, 50], [37, 0]])
    call = Call(jax.value_and_grad(_tagged(embedded, False)), (jnp.ones((50, 4)), tokens), {}, "train")
    call.carried = {0: 0}
    assert _labels_out_of_range(trace_call(call), call) == ((1, 50.0),)
