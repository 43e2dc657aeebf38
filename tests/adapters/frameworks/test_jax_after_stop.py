"""After a stop the names of a module hold what they did before the failed step, also where it was told of late."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import atexit
import jax
import jax.numpy as jnp
import numpy as np

params, rows = {"w": jnp.ones(3)}, np.ones((40, 3), "float32")
rows[17] = -9
no_tree = {("a",): 1, "b": 2}


@jax.jit
def step(params, x):
    loss, slope = jax.value_and_grad(lambda p: jnp.mean(jnp.log(x @ p["w"])))(params)
    return {"w": params["w"] - 0.01 * slope["w"]}, loss


atexit.register(lambda: print("after", float(params["w"].sum())))
for i in range(0, 40, 4):
    params, loss = step(params, rows[i : i + 4])
"""


def test_names_hold_the_values_from_before(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "whynan", "run", "--no-prove", "--out", "out", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 3, done.stderr[-2000:]
    after = float(done.stdout.partition("after ")[2].split()[0])
    assert 2.9 < after < 3.0
