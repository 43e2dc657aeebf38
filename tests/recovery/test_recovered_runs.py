"""A run that was recovered ends as one that was never ill."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEAD = """
    import math, sys
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)

    class Blobs(Dataset):
        def __init__(self, without=()):
            generator = torch.Generator().manual_seed(5)
            self.y = torch.arange(400) % 2
            self.x = torch.randn(400, 6, generator=generator) + 1.5 * self.y[:, None]
            self.indices = [i for i in range(400) if i not in without]
            self.x[137, 2] = math.nan
        def __len__(self):
            return len(self.indices)
        def __getitem__(self, i):
            return self.x[self.indices[i]], self.y[self.indices[i]]

    def accuracy(model, data):
        rows = [data[i] for i in range(len(data)) if torch.isfinite(data[i][0]).all()]
        x, y = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])
        with torch.no_grad():
            return float((model.eval()(x).argmax(1) == y).float().mean())
"""
TRAIN = (
    HEAD
    + """
    torch.manual_seed(0)
    data = Blobs(without=[137] if "clean" in sys.argv else [])
    loader = DataLoader(data, batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.save(model.state_dict(), f"epoch{epoch}.pt")
    finite = all(bool(torch.isfinite(v).all()) for v in model.state_dict().values())
    print(finite, accuracy(model, Blobs()))
"""
)


def test_one_poisoned_sample_costs_nothing(training: Any) -> None:
    recovered = training(TRAIN, "--policy", "recover")
    clean = training(TRAIN, program=("train.py", "clean"), plain=True)
    assert recovered.status == 0
    finite, accuracy = recovered.stdout.split()
    assert finite == "True"
    assert abs(float(accuracy) - float(clean.stdout.split()[1])) < 0.02
    assert recovered.report["outcome"] == "non-finite"
    assert "sample 137 is left out for the rest of the run" in recovered.incident["action"]["detail"]
    assert recovered.incident["samples"][0]["index"] == 137
    assert "sample 137 is left out" in recovered.stderr  # said when it is done


def test_checkpoints_of_a_recovered_run_are_finite(training: Any) -> None:
    import torch

    run = training(TRAIN, "--policy", "recover")
    for epoch in range(3):
        for name, value in torch.load(run.place / f"epoch{epoch}.pt").items():
            assert bool(torch.isfinite(value).all()), (epoch, name)


EXPLODES = """
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = torch.randn(64, 4) * 3, torch.randn(64, 1)
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.35)
    for step in range(200):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(float(loss.detach()) < 10, all(bool(torch.isfinite(p).all()) for p in model.parameters()))
"""


def test_a_learning_rate_that_is_too_high_is_lowered_from_an_earlier_state(training: Any) -> None:
    run = training(EXPLODES, "--policy", "recover")
    assert run.status == 0
    assert run.stdout.split() == ["True", "True"]
    assert "went back to step" in run.report["incidents"][0]["action"]["detail"]


NOTICES = TRAIN.replace(
    "            optimizer.zero_grad()",
    "            if not torch.isfinite(loss):\n                sys.exit('nan')\n            optimizer.zero_grad()",
)


def test_a_script_that_would_give_up_is_carried_on(training: Any) -> None:
    run = training(NOTICES, "--policy", "recover")
    assert run.status == 0, run.stderr
    assert run.stdout.startswith("True")


def test_a_killed_run_has_reported_what_it_had_met(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    source = TRAIN.replace("range(3)", "range(10_000)").replace("\n    ", "\n").strip()
    script.write_text(source)
    command = [sys.executable, "-m", "whynan", "run", "--no-prove", "--policy", "recover", "train.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    report = tmp_path / "whynan-out" / "report.json"
    for _ in range(600):
        if report.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads(report.read_text())["incidents"][0]["samples"][0]["index"] == 137


SCHEDULED = (
    HEAD
    + """
    torch.manual_seed(0)
    loader = DataLoader(Blobs(), batch_size=16, shuffle="shuffle" in sys.argv)
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    print(scheduler.last_epoch, scheduler.get_last_lr())
"""
)


def test_experiments_leave_the_scheduler_where_it_was(training: Any) -> None:
    observed = training(SCHEDULED, "--policy", "observe", "--prove")
    plain = training(SCHEDULED, plain=True)
    assert observed.report["outcome"] == "non-finite"
    assert any(remedy["proved"] for remedy in observed.incident["remedies"])
    assert observed.stdout == plain.stdout
    recovered = training(SCHEDULED, "--policy", "recover", "--prove")
    assert recovered.stdout.startswith("24 ")
