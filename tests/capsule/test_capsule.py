"""A failing step saved, and run again elsewhere: same numbers, line and sample; finite there is a finding too."""

import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.rand(40, 3) + 0.1
y = torch.rand(40)
x[17] = 0.0
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
opt = torch.optim.Adam(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
for epoch in range(2):
    for step, (xb, yb) in enumerate(loader):
        prediction = model(xb)
        weight = torch.log(xb.sum(1))  # BAD
        loss = ((prediction.squeeze(1) - yb) ** 2 * weight).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
"""


def _replayed(training: Any, capsule: Path, script: str = SCRIPT) -> Any:
    elsewhere = "import sys\nfrom whynan.cli.main import main\nsys.argv[:] = ['whynan', 'replay', CAPSULE, "
    elsewhere += "'--script', 'train.py', '--no-prove']\nsys.exit(main())\n"
    return training(
        {"go.py": elsewhere.replace("CAPSULE", repr(str(capsule))), "train.py": script}, program=("go.py",), plain=True
    )


@pytest.mark.parametrize("option", ["--capsule", "--capsule-data"])
def test_the_step_is_run_again_from_its_capsule(option: str, training: Any) -> None:
    first = training(SCRIPT, option)
    capsule = first.place / "whynan-out" / "capsule"
    step = json.loads((capsule / "capsule.json").read_text())
    assert (step["batch"] is not None) == (option == "--capsule-data")
    assert sorted(path.name for path in capsule.iterdir()) == ["capsule.json", "state.safetensors"]
    # Another start of the script: what counts is in the capsule.
    again = _replayed(training, capsule, SCRIPT.replace("manual_seed(0)", "manual_seed(0); torch.rand(0)"))
    assert again.status == 3, again.stderr
    for key in ("step", "origin", "samples", "loss_terms"):
        assert again.incident[key] == first.incident[key], key


def test_sample_data_stays_where_it_is(training: Any) -> None:
    from safetensors.torch import load_file

    run = training(SCRIPT, "--capsule")
    tensors = load_file(str(run.place / "whynan-out" / "capsule" / "state.safetensors"))
    assert not [name for name in tensors if name.startswith("batch")]
    assert all(name.split(".")[0] in ("model", "optimizer", "random") for name in tensors)


def test_a_fault_that_the_replay_does_not_show(training: Any) -> None:
    capsule = training(SCRIPT, "--capsule").place / "whynan-out" / "capsule"
    run = _replayed(training, capsule, SCRIPT.replace("x[17] = 0.0", ""))
    assert run.status == 3, run.stderr
    assert [cause["slug"] for cause in run.incident["causes"]] == ["non-reproducible"]
    assert not run.incident["replay"]["reproduced"] and "3 times" in run.incident["replay"]["why"]


def test_a_folder_that_is_no_capsule(training: Any, tmp_path: Path) -> None:
    run = _replayed(training, tmp_path)
    assert run.status == 2
    assert "capsule.json" in run.stderr and "whynan run --capsule" in run.stderr
