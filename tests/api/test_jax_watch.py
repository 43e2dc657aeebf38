"""`whynan.jax.watch` around a step of a program's own, in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

HEAD = """
    import jax, jax.numpy as jnp, numpy as np
    import whynan.jax
    from whynan.api.watch import NonFiniteError

    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(64, 3))).astype("float32") + 0.1
    x[41] = 0.0

    def loss_of(w, batch):
        return jnp.log(batch @ w).mean()
"""
STEP = """
    @whynan.jax.watch{options}
    @jax.jit
    def update(w, batch):
        loss, grad = jax.value_and_grad(loss_of)(w, batch)
        return w - 0.01 * grad, loss

    w = jnp.ones(3)
"""


def run(tmp_path: Path, *parts: str) -> str:
    (tmp_path / "train.py").write_text("".join(textwrap.dedent(part) for part in parts))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_stop(tmp_path: Path) -> None:
    loop = """
    try:
        for step in range(8):
            w, loss = update(w, x[8 * step : 8 * step + 8])
        update.report
    except NonFiniteError as error:
        incident = error.report.incidents[0]
        print(incident.origin.source.line, incident.causes[0].slug, [s.index for s in incident.samples])
        print([remedy.slug for remedy in incident.remedies if remedy.proved])
        print(incident.symptom.step)
    """
    lines = run(tmp_path, HEAD, STEP.format(options=""), loop).splitlines()
    assert lines[0] == "11 log-of-zero [41]"
    assert "clamp-or-eps" in lines[1]
    assert lines[2] == "5"


def test_observe_and_a_healthy_step(tmp_path: Path) -> None:
    loop = """
    seen = []
    for step in range(3):
        w, loss = update(w, x[8 * step : 8 * step + 8])
    print(len(update.report.incidents), update.report.outcome, update.__name__)
    update.close()
    """
    out = run(tmp_path, HEAD, STEP.format(options='(policy="observe", prove=False)'), loop)
    assert out.split() == ["0", "healthy", "update"]
