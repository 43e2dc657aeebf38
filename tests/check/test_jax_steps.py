"""`whynan check` on a small JAX program: the graph comes from the step's jaxpr."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
x = rng.normal(0, 1, (40, 4)).astype(np.float32)
params = {"w": jnp.ones((4, 3)) * 0.3}


def loss_fn(params, x):
    d = x @ params["w"]
    safe = jax.nn.log_softmax(d)
    length = jnp.sqrt(jnp.sum(d ** 2, axis=-1))
    return jnp.mean(length) - jnp.mean(safe)


@jax.jit
def step(params, x):
    loss, grads = jax.value_and_grad(loss_fn)(params, x)
    return jax.tree_util.tree_map(lambda p, g: p - 0.01 * g, params, grads), loss


for start in range(0, 40, 10):
    params, loss = step(params, x[start:start + 10])
print("end")
"""


def test_the_slope_of_a_root_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "whynan",
        "check",
        "--quiet",
        "--budget",
        "8",
        "--json",
        "c.json",
        "--save",
        "found",
        "train.py",
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    (suspect,) = json.loads((tmp_path / "c.json").read_text())["suspects"]
    assert (suspect["line"], suspect["op"], suspect["phase"], suspect["cause"]) == (
        14,
        "sqrt",
        "backward",
        "sqrt-at-zero",
    )
    assert suspect["witness"], suspect
    assert "all zero" in suspect["search"]["how"]
    (place,) = (tmp_path / "found").iterdir()
    (tmp_path / "mended.py").write_text(SCRIPT.replace("jnp.sum(d ** 2, axis=-1)", "jnp.sum(d ** 2, axis=-1) + 1e-8"))
    command = [sys.executable, "-m", "whynan", "check", "--quiet", "--replay", str(place), "mended.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the step stays finite" in done.stdout
