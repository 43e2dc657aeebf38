"""The suite for JAX."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.parts import suite

from whynan.jax import losses, ops
from whynan.jax.backend import XP

jax.config.update("jax_enable_x64", True)


COMPILED: dict[tuple, object] = {}


def run(call, arrays):
    """Run a call and its gradient under jit, compiled once for the arrays of one shape."""

    def total(*xs):
        result = call(*xs)
        results = list(result.values()) if isinstance(result, dict) else [result]
        return sum(jnp.sum(x.astype("float64")) for x in results), results

    # A case wraps its own function: what it closes over says which it is.
    inner = tuple(id(cell.cell_contents) for cell in call.__closure__ or ())
    key = (call.__code__, call.__defaults__, inner, tuple((x.shape, str(x.dtype)) for x in arrays))
    if key not in COMPILED:
        COMPILED[key] = (jax.jit(jax.value_and_grad(total, tuple(range(len(arrays))), has_aux=True)), call)
    (_, results), gradients = COMPILED[key][0](*[jnp.asarray(x) for x in arrays])
    return [np.asarray(x) for x in results], [np.asarray(x) for x in gradients]


JAX = SimpleNamespace(ops=ops, losses=losses, array=jnp.asarray, run=run, hard=lambda y: (y > 0).astype(y.dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", suite.ONE_REDUCTION, ids=str)
def test_edges(case, dtype):
    suite.many_edges(JAX, case, dtype)


@pytest.mark.parametrize("case", suite.ONE_REDUCTION, ids=str)
def test_nothing(case):
    suite.finite(JAX, case, "float32", 0, [1.0])


@pytest.mark.parametrize("case", suite.WITH_PLAIN_FORM, ids=str)
def test_plain_forms(case, monkeypatch):
    suite.both_ways(JAX, case, XP, monkeypatch)


def test_plain_form_of_some_rows():
    """Under vmap each row goes its own way; a second derivative goes through either."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)) * np.array([[1.0], [1e30], [1e-30], [0.0]]), "float32")
    rows = jax.vmap(jax.value_and_grad(ops.std))(x)
    for index, row in enumerate(x):
        for one, other in zip(rows, jax.value_and_grad(ops.std)(row), strict=True):
            np.testing.assert_allclose(one[index], other, rtol=1e-6)
    second = jax.hessian(lambda v: ops.var(v).sum())(x[0])
    np.testing.assert_allclose(second, (np.eye(6) - 1 / 6) / 3, atol=1e-6)


@pytest.mark.parametrize("dtype", suite.DTYPES)
def test_numbers_of_mpmath(dtype):
    for index in range(len(suite.ELEMENT_REFERENCES)):
        suite.against_mpmath(JAX, index, dtype, 12)
    suite.row_references(JAX, dtype)


def test_jit_and_vmap():
    logits, labels = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4))), jnp.array([0, 1, -100, 3, 2])
    plain = losses.cross_entropy(logits, labels)
    np.testing.assert_allclose(jax.jit(losses.cross_entropy)(logits, labels), plain)
    rows = jax.vmap(lambda x, y: losses.cross_entropy(x, y, reduction="none"))(logits, labels)
    np.testing.assert_allclose(rows, losses.cross_entropy(logits, labels, reduction="none"))
    second = jax.hessian(lambda x: losses.cross_entropy(x, labels))(logits)
    assert bool(jnp.isfinite(second).all())
    with pytest.raises(ValueError, match="target: must be a class index from 0 to 3"):
        losses.cross_entropy(logits, labels + 5, validate=True)
