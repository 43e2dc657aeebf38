"""Recovery where a step is a function: back to a copy, smaller updates from then on, nothing poisoned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from whynan.adapters.common.run import Copies, Recovery
from whynan.records import Incident, ReplayResult, Symptom
from whynan.records.recording import CauseFound

DATA = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(0, 3, (256, 8)).astype("float32")
y = x @ rng.normal(0, 1, 8).astype("float32")
"""
JAX = """
import jax, jax.numpy as jnp

@jax.jit
def train_step(w, x, y):
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w - y) ** 2))(w)
    return w - 0.2 * gradient, loss

w = jnp.zeros(8)
for step in range(400):
    s = step % 8 * 32
    w, loss = train_step(w, x[s:s + 32], y[s:s + 32])
"""
TENSORFLOW = """
import tensorflow as tf
w = tf.Variable(tf.zeros((8,)))
for step in range(200):
    s = step % 8 * 32
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((tf.linalg.matvec(x[s:s + 32], w) - y[s:s + 32]) ** 2)
    w.assign_sub(0.2 * tape.gradient(loss, w))
w = w.numpy()
"""
NUMPY = """
def main():
    w = np.zeros(8)
    for step in range(900):
        s = step % 8 * 32
        error = x[s:s + 32] @ w - y[s:s + 32]
        loss = np.mean(error ** 2)
        w = w - 0.2 * 2 * x[s:s + 32].T @ error / 32
    return w, loss

w, loss = main()
"""
END = """
print(f"finite={bool(np.isfinite(np.asarray(w)).all())} small={float(loss) < 1e-3}")
"""
KERAS_ON_JAX = """
import os
os.environ["KERAS_BACKEND"] = "jax"
import keras
keras.utils.set_random_seed(0)
x[165, 3] = np.nan
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
try:
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
finally:
    print(f"finite={all(np.isfinite(w).all() for w in model.get_weights())}", int(model.optimizer.iterations.value))
"""


def run(place: Path, script: str, policy: str) -> tuple[str, dict[str, Any]]:
    (place / "train.py").write_text(script)
    command = [sys.executable, "-m", "whynan", "run", "--no-prove", "--policy", policy, "--out", "out", "train.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    return done.stdout, json.loads((place / "out" / "report.json").read_text())


@pytest.mark.parametrize("script", [JAX, TENSORFLOW, NUMPY], ids=["jax", "tensorflow", "numpy"])
def test_a_run_that_diverges_goes_back_and_on_with_smaller_updates(script: str, tmp_path: Path) -> None:
    output, report = run(tmp_path, DATA + script + END, "recover")
    assert "finite=True small=True" in output
    actions = [incident["action"]["detail"] for incident in report["incidents"]]
    assert any("went back to step" in action and "updates are 0.2" in action for action in actions), actions


def test_keras_on_jax_holds_the_weights_from_before_the_step_after_a_stop(tmp_path: Path) -> None:
    output, report = run(tmp_path, DATA + KERAS_ON_JAX, "stop")
    assert "finite=True 10" in output
    assert report["incidents"][0]["step"] == 10


def test_copies_are_from_before_the_trouble_and_ever_earlier() -> None:
    copies: Copies[str] = Copies(every=5, kept=3)
    for step in range(21):
        if copies.is_due(step):
            copies.add(step, f"before {step}")
    assert copies.take(21, growing_since=18) == (15, "before 15")
    assert copies.take(21, growing_since=18) == (0, "before 0")
    assert copies.take(21, growing_since=18) == (0, "before 0")


def test_what_cannot_be_slowed_is_skipped() -> None:
    symptom = Symptom("loss", "loss", "nan", 4, None, "train", None)
    cause = CauseFound("learning-rate-too-high", 0.9, "the learning rate", "the loss grew", ())
    incident = Incident(symptom, ReplayResult(True, "closure", None), causes=(cause,))
    recovery: Recovery[None] = Recovery()
    assert recovery.choose(4, incident, None, can_slow=False)[0] == "skip-batch"
    assert recovery.factor == 1.0
    assert recovery.choose(5, incident, None)[0] == "lower-learning-rate"
    assert recovery.factor == pytest.approx(0.2)
