"""The suite for Keras, on the backend that KERAS_BACKEND names; `make test` runs it on all three."""

import os
from types import SimpleNamespace

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from tests.parts import suite

from whynan.keras import losses, ops
from whynan.keras.backend import XP

BACKEND = keras.config.backend()


def run_tensorflow(call, arrays):
    import tensorflow as tf

    tensors = [tf.constant(x) for x in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = call(*tensors)
        results = list(result.values()) if isinstance(result, dict) else [result]
        total = sum(tf.reduce_sum(tf.cast(x, "float64")) for x in results)
    gradients = tape.gradient(total, tensors)
    # An index into an array gives slices; what it did not take has gradient 0.
    return [x.numpy() for x in results], [tf.convert_to_tensor(x).numpy() for x in gradients]


def framework():
    if BACKEND == "torch":
        from tests.parts.torch.framework import TorchFramework

        return TorchFramework(ops, losses)
    if BACKEND == "jax":
        from tests.parts.jax.test_parts import run
    else:
        run = run_tensorflow
    return SimpleNamespace(
        ops=ops, losses=losses, array=keras.ops.convert_to_tensor, run=run,
        hard=lambda y: keras.ops.cast(y > 0, y.dtype),
    )  # fmt: skip


KERAS = framework()


# JAX compiles each operation for each shape anew; its operations have all edges in their own folder.
DTYPES = ["float32"] if BACKEND == "jax" else ["float32", "float16"]
CASES = suite.ONE_REDUCTION[::4] if BACKEND == "jax" else suite.ONE_REDUCTION


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_edges(case, dtype):
    suite.many_edges(KERAS, case, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing(case):
    suite.finite(KERAS, case, "float32", 0, [1.0])


if BACKEND == "tensorflow":

    @pytest.mark.parametrize("case", suite.WITH_PLAIN_FORM, ids=str)
    def test_plain_forms(case, monkeypatch):
        suite.both_ways(KERAS, case, XP, monkeypatch)


@pytest.mark.parametrize("dtype", suite.DTYPES)
def test_numbers_of_mpmath(dtype):
    for index in range(len(suite.ELEMENT_REFERENCES)):
        suite.against_mpmath(KERAS, index, dtype, 12)
    suite.row_references(KERAS, dtype)


def test_fit():
    """A loss in a compiled model, with a batch size that the graph does not know."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])
    model.compile(optimizer="sgd", loss=losses.as_keras(losses.cross_entropy, label_smoothing=0.1))
    x, y = np.random.default_rng(0).normal(size=(10, 3)).astype("float32"), np.arange(10) % 4
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < history[0]
