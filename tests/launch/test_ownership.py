"""Programs that import more than one framework: the loops are watched by the one that trains."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest


def incident_of(tmp_path: Path, source: str) -> Any:
    (tmp_path / "train.py").write_text(textwrap.dedent(source))
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "whynan", "run", "--no-prove", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    report = json.loads((tmp_path / "whynan-out" / "report.json").read_text())
    assert report["incidents"], (done.stdout, done.stderr)
    return report["run"]["framework"], report["incidents"][0]["origin"]


TORCH = """
    import torch
    import torch._dynamo  # Triton's LLVM and TensorFlow's get along in this order only
    {imports}

    w = torch.ones(3, requires_grad=True)
    for step in range(5):
        loss = torch.log((w * 0).abs()).sum() if step == 3 else (w * w).sum()
        loss.backward()
        w.grad = None
"""
NUMPY = """
    import numpy as np
    {imports}

    class Network:
        def __init__(self):
            self.w = np.full((4, 1), 0.5)

        def fit(self, x, y):
            for epoch in range(6):
                p = x @ self.w
                loss = np.mean(np.log(p * (epoch < 4) ) ** 2 - y)
                self.w -= 1e-3 * x.T @ (p - y)

    np.seterr(all="ignore")
    x = np.abs(np.random.default_rng(0).normal(size=(20, 4))) + 0.1
    Network().fit(x, x[:, :1])
"""


def test_torch_beside_tensorflow(tmp_path: Path) -> None:
    framework, origin = incident_of(tmp_path, TORCH.format(imports="import tensorflow as tf"))
    assert framework == "torch"
    assert "torch.log" in origin["code"]


@pytest.mark.parametrize("imports", ["from keras.datasets import mnist", "import torch"])
def test_numpy_with_data_from_a_framework(tmp_path: Path, imports: str) -> None:
    framework, origin = incident_of(tmp_path, NUMPY.format(imports=imports))
    assert framework == "numpy"
    assert "np.log" in origin["code"]
