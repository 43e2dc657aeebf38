"""A diagnosis names the part of whynan to build with, because the failing step was run with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whynan.adapters.common.dialect import part_changes

TORCH = """
import torch
torch.manual_seed(0)
x, weights = torch.rand(16, 3), torch.ones(3, requires_grad=True)
x[5] = 0.0
optimizer = torch.optim.SGD([weights], lr=0.01)

def loss_of(batch):
    return torch.log(batch @ weights).square().mean()

for start in range(0, 16, 4):
    loss = loss_of(x[start : start + 4])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
NUMPY = """
import numpy as np
rng = np.random.default_rng(0)
x, w = rng.uniform(size=(16, 3)), np.zeros(3)
x[4:8, 1] = 0.5

def scaled(batch):
    return (batch - batch.mean(0)) / batch.std(0)

for epoch in range(2):
    for start in range(0, 16, 4):
        error = scaled(x[start : start + 4]) @ w - 1.0
        loss = float((error**2).mean())
        w -= 0.1 * scaled(x[start : start + 4]).T @ error
"""

LARGE_START = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(*[layer for _ in range(12) for layer in (nn.Linear(64, 64), nn.ReLU())])
for layer in model[::2]:
    nn.init.normal_(layer.weight, std=100.0)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(3):
    loss = model(torch.randn(8, 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
NO_VARIANCE = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, eps=1e-300), nn.Linear(4, 1))
with torch.no_grad():
    model[0].weight[1], model[0].bias[1] = 0.0, 2.0
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(3):
    loss = model(torch.randn(8, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("script", "slug", "part"),
    [
        (LARGE_START, "better-init", "whynan.torch.init.initialize"),
        (NO_VARIANCE, "larger-batch-or-groupnorm", "whynan.torch.layers.replace_batch_norm"),
    ],
)
def test_the_layers_were_those_of_the_part(script: str, slug: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    done = subprocess.run([sys.executable, "-m", "whynan", "run", "train.py"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 3, done.stderr.decode()
    (incident,) = json.loads((tmp_path / "whynan-out" / "report.json").read_text())["incidents"]
    (remedy,) = [remedy for remedy in incident["remedies"] if remedy["slug"] == slug]
    assert remedy["proved"] and f"({part}): finite" in remedy["outcome"]


@pytest.mark.parametrize(("script", "part"), [(TORCH, "whynan.torch.ops.log"), (NUMPY, "whynan.numpy.ops.div")])
def test_the_part_was_tried(script: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    done = subprocess.run([sys.executable, "-m", "whynan", "run", "train.py"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 3, done.stderr.decode()
    (incident,) = json.loads((tmp_path / "whynan-out" / "report.json").read_text())["incidents"]
    (clamped,) = [remedy for remedy in incident["remedies"] if remedy["slug"] == "clamp-or-eps"]
    assert clamped["proved"] and clamped["outcome"].endswith(f"also with {part}")


@pytest.mark.parametrize(
    ("part", "code", "wanted"),
    [
        ("whynan.jax.ops.log", "y = jnp.log(p) + 1", "{}(p) + 1"),
        ("whynan.keras.ops.std", "y = tf.math.reduce_std(x, axis=0)", "{}(x, axis=0)"),
        ("whynan.numpy.ops.div", "y = a[0] / (b - c)", "{}(a[0], b - c)"),
        ("whynan.jax.ops.pow", "y = (x + 1) ** k", "{}(x + 1, k)"),
    ],
)
def test_the_line_with_a_part(part: str, code: str, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"{code}\n")
    (change,) = part_changes(part, str(path), 1)
    module, _, name = part.rpartition(".")
    assert change.source == f"y = {wanted}\n".format(f'__import__("{module}", fromlist=["{name}"]).{name}')


@pytest.mark.parametrize("code", ["y = x.log()", "y = a / 2", "y = (", "y = 1"])
def test_a_line_without_a_place_for_the_part(code: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"{code}\n")
    assert not list(part_changes("whynan.jax.ops.log", str(path), 1))
    assert not list(part_changes("whynan.jax.ops.div", str(path), 1))


def test_each_operation_of_a_line_is_one_change(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("y = (a / b) / c\n")
    div = '__import__("whynan.jax.ops", fromlist=["div"]).div'
    sources = {change.source for change in part_changes("whynan.jax.ops.div", str(path), 1)}
    assert sources == {f"y = {div}(a / b, c)\n", f"y = ({div}(a, b)) / c\n"}
