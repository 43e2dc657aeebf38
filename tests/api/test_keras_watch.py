"""`whynan.keras.Watch` in a program of one's own, with each backend that it works with."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import sys
    import keras
    import numpy as np
    import whynan.keras
    from whynan.api.watch import NonFiniteError

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")
    y = x[:, :1] * 2
    x[29, 1] = np.nan
    seen = []
    watch = whynan.keras.Watch(policy=sys.argv[1], prove=False, out="found", on_incident=seen.append)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    try:
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[watch])
    except NonFiniteError as error:
        print("stopped", error.report.incidents[0].symptom.step)
    [incident] = watch.report.incidents
    print(incident.causes[0].slug, [sample.index for sample in incident.samples], len(seen))
    print(all(np.isfinite(w).all() for w in model.get_weights()))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize("policy", ["stop", "recover"])
def test_fit(tmp_path: Path, backend: str, policy: str) -> None:
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "train.py", policy]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if policy == "stop":
        assert lines.pop(0) == "stopped 3"
    assert lines[0] == "bad-input-values [29] 1"
    # With JAX the failure is told when the results are there: `stop` cannot keep the model from having them.
    assert lines[1] == "True" or (backend, policy) == ("jax", "stop")
    assert (tmp_path / "found" / "report.json").exists()


def test_a_backend_that_is_not_watched(tmp_path: Path) -> None:
    code = "import whynan.keras; whynan.keras.Watch()"
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    assert "not torch" in done.stderr
