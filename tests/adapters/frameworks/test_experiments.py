"""What is tried on a failing step is tried on that step: its rows, its changed lines, its state some steps before."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(0, 1, (256, 8)).astype("float32")
y = x[:, 0] * 2 - x[:, 1]
"""
GATHERED = """
import tensorflow as tf
tf.random.set_seed(0)
x[130] = 0
x, y, w = tf.constant(x), tf.constant(y), tf.Variable(1.0)

def train():
    for step in range(40):
        rows = tf.random.uniform((32,), 0, 256, tf.int32)
        with tf.GradientTape() as tape:
            size = tf.reduce_sum(tf.abs(tf.gather(x, rows)), 1)
            loss = tf.reduce_mean((tf.math.log(size) * w - tf.gather(y, rows)) ** 2)
        w.assign_sub(0.01 * tape.gradient(loss, w))

train()
"""
MODULE = """
import tensorflow as tf

class Linear(tf.Module):
    def __init__(self):
        self.w = tf.Variable(tf.zeros(8))

    @tf.function
    def train(self, xb, yb):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.linalg.matvec(xb, self.w) - yb) ** 2)
        self.w.assign_sub(9.0 * tape.gradient(loss, self.w))
        return loss

model = Linear()
for step in range(60):
    model.train(x, y)
"""
MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x[150] = 0
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    w = tf.Variable(1.0)
    optimizer = tf.keras.optimizers.SGD(0.01)

def step(xb, yb):
    with tf.GradientTape() as tape:
        size = tf.reduce_sum(tf.abs(xb), 1)
        loss = tf.reduce_sum((tf.math.log(size) * w - yb) ** 2) / 32
    optimizer.apply_gradients([(tape.gradient(loss, w), w)])
    return loss

@tf.function
def train(batch):
    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step, args=batch), axis=None)

try:
    for batch in strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, y)).batch(32)):
        train(batch)
finally:
    print("finite", bool(np.isfinite(w.numpy())))
"""
MAPPED = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
import jax.numpy as jnp
x[130] = 0

def loss_fn(w, xb, yb):
    size = jnp.abs(xb).sum(1)
    return jnp.mean((jnp.log(size) * w - yb) ** 2)

def step(w, xb, yb):
    loss, gradient = jax.value_and_grad(loss_fn)(w, xb, yb)
    return w - 0.01 * jax.lax.pmean(gradient, "devices"), loss

steps, w = jax.pmap(step, axis_name="devices"), jnp.ones(2)
for start in range(0, 256, 32):
    w, loss = steps(w, x[start : start + 32].reshape(2, 16, 8), y[start : start + 32].reshape(2, 16))
"""
PLAIN = """
w, b, lr = np.zeros(8), np.zeros(1), 0.5
for step in range(400):
    at = step % 8 * 32
    error = 3 * x[at : at + 32].astype("float64") @ w + b - y[at : at + 32]
    loss = np.mean(error**2)
    gradient = 6 * x[at : at + 32].T @ error / 32
    w -= lr * gradient
    b = b - lr * np.array([2 * error.mean()])
"""
BATCH_IN_A_FUNCTION = """
import jax
import jax.numpy as jnp
x[130] = 0

def loss_fn(w, xb, yb):
    return jnp.mean((jnp.log(jnp.abs(xb).sum(1)) * w - yb) ** 2)

def step(w, xb, yb):
    loss, gradient = jax.value_and_grad(loss_fn)(w, xb, yb)
    return w - 0.01 * gradient

w = jnp.ones(())
for start in range(0, 256, 32):
    w = step(w, x[start : start + 32], y[start : start + 32])
"""


def run(place: Path, script: str, *options: str) -> tuple[dict[str, Any], str]:
    """Return the only incident, and what the script printed."""
    (place / "train.py").write_text(DATA + script)
    command = [sys.executable, "-m", "whynan", "run", *options, "--out", "out", "train.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    (incident,) = json.loads((place / "out" / "report.json").read_text())["incidents"]
    return incident, done.stdout


def proved(incident: dict[str, Any]) -> set[str]:
    return {remedy["slug"] for remedy in incident["remedies"] if remedy["proved"]}


def test_rows_gathered_by_a_drawn_index_are_samples_and_lines_of_the_loop_are_changed(tmp_path: Path) -> None:
    incident, _ = run(tmp_path, GATHERED)
    assert incident["origin"]["function"] == "train"
    assert [sample["index"] for sample in incident["samples"]] == [130]
    assert {"clamp-or-eps", "double-where"} <= proved(incident)


def test_steps_of_a_module_are_run_again_from_their_first_weights(tmp_path: Path) -> None:
    incident, _ = run(tmp_path, MODULE)
    assert {"lower-learning-rate", "clip-gradients"} <= proved(incident)


def test_the_step_of_a_failing_replica_is_run_again(tmp_path: Path) -> None:
    incident, output = run(tmp_path, MIRRORED, "--no-prove")
    assert incident["origin"]["code"].startswith("loss = ")
    assert incident["origin"]["op"] == "log"
    assert [sample["index"] for sample in incident["samples"]] == [150]
    assert "run again on replica 1 of 2 alone, with its part of the batch" in incident["notes"]
    assert output.split() == ["finite", "True"]


def test_a_changed_line_reaches_a_function_mapped_over_devices(tmp_path: Path) -> None:
    incident, _ = run(tmp_path, MAPPED)
    assert {"clamp-or-eps", "double-where"} <= proved(incident)


def test_plain_updates_of_numpy_are_clipped_however_long_the_run(tmp_path: Path) -> None:
    incident, _ = run(tmp_path, PLAIN)
    assert incident["step"] > 128
    assert {"lower-learning-rate", "clip-gradients"} <= proved(incident)


def test_a_batch_given_to_a_function_is_no_data_set(tmp_path: Path) -> None:
    incident, _ = run(tmp_path, BATCH_IN_A_FUNCTION, "--no-prove")
    assert [sample["index"] for sample in incident["samples"]] == [130]


def test_half_precision_is_computed_in_float32() -> None:
    import keras
    import tensorflow as tf

    from whynan.adapters.tensorflow.experiments import in_float32

    dense = keras.layers.Dense(2, dtype=keras.DTypePolicy("mixed_float16"))
    large = tf.constant([[300.0]])
    assert dense(large).dtype == tf.float16
    with in_float32() as (widened, found):
        assert bool(tf.math.is_finite(tf.square(tf.cast(large, tf.float16)))[0, 0])
        assert dense(large).dtype == tf.float32
        assert widened(tf.constant(1.0, tf.bfloat16)).dtype == tf.float32
        assert widened("name") == "name"
    assert {"float16", "bfloat16"} <= set(found)
    assert tf.cast(large, tf.float16).dtype == tf.float16
    assert dense(large).dtype == tf.float16
