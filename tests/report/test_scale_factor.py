"""The scale factor of a gradient scaler is kept for each step, and the page has its plot."""

import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = """
import torch
torch.manual_seed(0)
x = torch.rand(64, 3) + 0.1
x[37] = 0.0
net = torch.nn.Linear(3, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
for start in range(0, 64, 4):
    xb = x[start : start + 4]
    loss = ((net(xb).squeeze(1) - torch.log(xb.sum(1))) ** 2).mean()
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
"""


def test_the_scale_factor_is_plotted(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "-m", "whynan", "run", "--no-prove", "train.py"], cwd=tmp_path, check=False)
    assert done.returncode == 3
    scale = np.load(tmp_path / "whynan-out" / "history.npz", allow_pickle=False)["scale"]
    assert scale[0] == 2.0**10 and scale[-1] == 2.0**12, "doubled after four steps, twice"
    assert "loss scale" in (tmp_path / "whynan-out" / "report.html").read_text()
