"""A healthy run under whynan is the plain run: the same weights to the last bit, in both modes."""

import subprocess
import sys

import pytest

SCRIPT = """
import hashlib
import mindspore as ms, numpy as np
from mindspore import Tensor, nn
ms.set_context(mode=MODE)
ms.set_seed(1)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("f4"), rng.normal(size=(32, 1)).astype("f4")
net = nn.SequentialCell(nn.Dense(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dense(16, 1))
train_step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), nn.Adam(net.trainable_params(), 1e-2))
train_step.set_train()
for start in [*range(0, 32, 8)] * 3:
    loss = train_step(Tensor(x[start : start + 8]), Tensor(y[start : start + 8]))
print(float(loss), hashlib.sha1(b"".join(p.asnumpy().tobytes() for p in net.get_parameters())).hexdigest())
"""


@pytest.mark.parametrize("mode", [0, 1], ids=["graph", "pynative"])
def test_same_weights(mode, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT.replace("MODE", str(mode)))
    outputs = [
        subprocess.run(
            [sys.executable, *how, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=200
        ).stdout
        for how in ([], ["-m", "whynan", "run", "--out", "out"])
    ]
    assert outputs[0] == outputs[1] != ""
