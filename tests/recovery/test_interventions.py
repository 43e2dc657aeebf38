"""Samples left out, gradients clipped, updates by hand undone: where a step is a function, and in loops by hand."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whynan.adapters.common.arrays import LeftOut, Part
from whynan.adapters.common.run import FULL_ORDER, Recovery
from whynan.adapters.numpy.experiments import shorten
from whynan.records import Incident, ReplayResult, Sample, Symptom
from whynan.recovery import Limits

DATA = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(0, 1, (256, 8)).astype("float32")
y = x[:, 0] * 2 - x[:, 1]
"""
FUNCTION = """
import tensorflow as tf
x[130] = 0
w = tf.Variable(1.0)
optimizer = tf.keras.optimizers.SGD(0.01)

@tf.function
def train_step(xb, yb):
    with tf.GradientTape() as tape:
        size = tf.math.log(tf.reduce_sum(tf.abs(xb), 1))
        loss = tf.reduce_mean((size * w - yb) ** 2)
    optimizer.apply_gradients([(tape.gradient(loss, w), w)])
    return loss

for xb, yb in tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat(3):
    loss = train_step(xb, yb)
print("finite", bool(np.isfinite(w.numpy())), int(optimizer.iterations))
"""
BY_HAND = """
import jax
import jax.numpy as jnp
x[128:160, 5] = 0

def loss_fn(w, xb, yb):
    return jnp.mean((xb @ w - yb) ** 2)

def main():
    w = jnp.zeros(8)
    for epoch in range(2):
        for start in range(0, 256, 32):
            gradient = jax.grad(loss_fn)(w, x[start : start + 32], y[start : start + 32])
            w = w - 0.01 * gradient / jnp.sqrt(gradient * gradient)
    return w

print("finite", bool(jnp.isfinite(main()).all()))
"""
APART = """
import jax
import jax.numpy as jnp
x[128:160, 5] = 0

@jax.jit
def gradients_of(w, xb, yb):
    return jax.value_and_grad(lambda w: jnp.mean((xb @ w - yb) ** 2))(w)

@jax.jit
def apply(w, gradient):
    return w - 0.01 * gradient / jnp.sqrt(gradient * gradient)

def main():
    w = jnp.zeros(8)
    for epoch in range(2):
        for start in range(0, 256, 32):
            loss, gradient = gradients_of(w, x[start : start + 32], y[start : start + 32])
            w = apply(w, gradient)
    return w

print("finite", bool(jnp.isfinite(main()).all()))
"""
CLIPPED = {
    "tensorflow": """
import tensorflow as tf
from whynan.launch import host
w = tf.Variable(tf.zeros(8))

@tf.function
def step():
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((tf.linalg.matvec(x, w) - y * 100) ** 2)
    w.assign_sub(0.1 * tape.gradient(loss, w))

for i in range(4):
    if i == 2:
        host.current_host().on_begin.__self__.watch.limit_gradients(1.0)
    old = w.numpy()
    step()
    print(round(float(np.linalg.norm(w.numpy() - old)), 3))
""",
    "jax": """
import jax
import jax.numpy as jnp
from whynan.launch import host

@jax.jit
def step(w):
    return w - 0.1 * jax.grad(lambda w: jnp.mean((x @ w - y * 100) ** 2))(w)

w = jnp.zeros(8)
for i in range(4):
    if i == 2:
        host.current_host().on_end.__self__.watch.limit_gradients(1.0)
    old, w = w, step(w)
    print(round(float(jnp.linalg.norm(w - old)), 3))
""",
}


def run(place: Path, script: str) -> tuple[list[str], dict[str, Any]]:
    (place / "train.py").write_text(DATA + script)
    command = [sys.executable, "-m", "whynan", "run", "--no-prove", "--policy", "recover", "--out", "out", "train.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    return done.stdout.split(), json.loads((place / "out" / "report.json").read_text())


def test_a_sample_left_out_never_comes_back(tmp_path: Path) -> None:
    output, report = run(tmp_path, FUNCTION)
    assert output == ["finite", "True", "23"]
    (incident,) = report["incidents"]
    assert incident["action"]["detail"].endswith("another sample stands in for sample 130 from here on")


@pytest.mark.parametrize(("script", "line"), [(BY_HAND, "w = w -"), (APART, "return w -")], ids=["by hand", "apart"])
def test_an_update_outside_of_the_derivative_is_undone(script: str, line: str, tmp_path: Path) -> None:
    output, report = run(tmp_path, script)
    assert output == ["finite", "True"]
    assert [incident["step"] for incident in report["incidents"]] == [4, 12]
    for incident in report["incidents"]:
        assert incident["origin"]["code"].startswith(line)
        assert incident["action"]["detail"].startswith("the batch was skipped")
        assert not incident["samples"]


@pytest.mark.parametrize("name", CLIPPED)
def test_gradients_of_compiled_steps_are_clipped_from_then_on(name: str, tmp_path: Path) -> None:
    output, report = run(tmp_path, CLIPPED[name])
    assert report["outcome"] == "healthy"
    assert float(output[0]) > 30
    assert float(output[1]) > 20
    assert output[2:] == ["0.1", "0.1"]


def batch(*rows: float) -> list[Part]:
    return [Part("x", "batch", np.array([[row, np.nan] for row in rows])), Part("y", "target", np.array(rows))]


def test_a_sample_is_known_by_all_that_it_holds() -> None:
    left_out = LeftOut()
    left_out.add(batch(3.0, 4.0, 5.0), [Sample(1, 17, None, "")])
    assert left_out.rows(batch(1.0, 2.0)) is None
    assert left_out.rows(batch(4.0, 2.0, 4.0)) == [1, 1, 1]
    assert left_out.rows([Part("x", "batch", batch(4.0, 2.0)[0].array), Part("y", "target", np.ones(2))]) is None
    assert left_out.rows(batch(4.0, 4.0)) is None  # nothing could stand in


def test_updates_are_shortened_as_clipped_gradients_would_make_them() -> None:
    before = {"w": np.zeros(2), "b": np.zeros(1), "log": np.zeros(1)}
    arrays = {"w": np.array([-0.3, 0.0]), "b": np.array([-0.4]), "log": np.array([9.0])}
    shorten(before, arrays, (0.1, {"w", "b"}), 1.0)
    assert arrays["w"] == pytest.approx([-0.06, 0.0])
    assert arrays["b"] == pytest.approx([-0.08])
    assert arrays["log"] == pytest.approx([9.0])
    shorten(before, arrays, (0.1, {"w", "b"}), 2.0)
    assert arrays["b"] == pytest.approx([-0.08])


def test_what_cannot_be_clipped_is_slowed_and_what_cannot_be_told_is_skipped() -> None:
    symptom = Symptom("loss", "loss", "nan", 4, None, "train", None)
    incident = Incident(symptom, ReplayResult(True, "closure", None), samples=(Sample(2, 7, None, ""),))
    grown = Incident(symptom, ReplayResult(True, "closure", None),
                     causes=(SimpleNamespace(slug="exploding-gradient"),))  # type: ignore[arg-type]  # fmt: skip
    recovery: Recovery[None] = Recovery(Limits(order=FULL_ORDER, patience=1))
    assert recovery.choose(4, incident, None)[0] == "skip-batch"
    action, words, _ = recovery.choose(5, incident, None, can_drop=True)
    assert action == "drop-sample"
    assert "sample 7" in words
    assert recovery.choose(6, grown, None)[0] == "lower-learning-rate"  # no copy to go back to
    assert recovery.choose(7, grown, None, can_clip=False)[0] == "lower-learning-rate"
    assert recovery.clip_norm is None
    assert Recovery(Limits(order=("clip-gradients",))).choose(0, grown, None)[0] == "clip-gradients"
