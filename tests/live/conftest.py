"""A short run that fails and one that does not, in NumPy: nothing heavy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEALTHY = """\
import sys, time
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 3)); y = x @ [1.0, -2.0, 0.5]
w = np.zeros(3)
for step in range(40):
    error = x @ w - y
    loss = np.mean(error ** 2)
    w -= 0.1 * 2 * x.T @ error / len(x)
    time.sleep(0.02)
    if step % 10 == 0:
        print("step", step)
        print("progress", step, end="\\r", file=sys.stderr, flush=True)
print("done")
"""

FAILING = """\
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 3)); y = x @ [1.0, -2.0, 0.5]
w = np.zeros(3)
for step in range(40):
    error = x @ w - y
    scale = np.sqrt(3.0 - step)
    loss = np.mean(error ** 2) * scale
    w -= 0.1 * 2 * scale * x.T @ error / len(x)
    print("step", step)
"""


@pytest.fixture
def watched(tmp_path: Path):
    """Return a function that runs a script under whynan in `tmp_path`, with options and environment."""

    def run(script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        (tmp_path / "train.py").write_text(script)
        kept = {key: value for key, value in os.environ.items() if key not in ("CI", "GITHUB_ACTIONS")}
        return subprocess.run(
            [sys.executable, "-m", "whynan", "run", *options, "train.py"],
            cwd=tmp_path,
            env=kept | environment,
            capture_output=True,
            check=False,
            timeout=240,
        )

    return run
