"""`whynan check` on small scripts, as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FAILING = """
import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(40, 6)
y = (x[:, 0] > 0).float()
model = torch.nn.Linear(6, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
print("training")
for epoch in range(100):
    for a, b in DataLoader(TensorDataset(x, y), batch_size=10, num_workers=2):
        p = torch.sigmoid(8 * model(a)[:, 0])
        loss = -(b * torch.log(p) + (1 - b) * torch.log(1 - p)).mean()  # the line
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), "model.pt")
open("end.txt", "w").write("never")
"""
CLEAN = FAILING.replace("p = torch.sigmoid(8 * model(a)[:, 0])", "p = model(a)[:, 0]").replace(
    "-(b * torch.log(p) + (1 - b) * torch.log(1 - p)).mean()",
    "torch.nn.functional.binary_cross_entropy_with_logits(p, b)",
)


def check(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(source)
    command = [sys.executable, "-m", "whynan", "check", "--no-github", "--budget", "4", *options, "train.py"]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("failing")
    return folder, check(folder, FAILING, "--json", "c.json", "--html", "c.html", "--sarif", "c.sarif", "--github")


def test_the_line_is_named_with_a_witness(failing: tuple[Path, Any]) -> None:
    folder, done = failing
    assert done.returncode == 1, done.stderr
    assert "witness train.py:14" in done.stdout
    assert "log-of-zero" in done.stdout
    assert "\x1b[" not in done.stdout
    assert "training" in done.stderr and "training" not in done.stdout
    assert not (folder / "end.txt").exists(), "the script was not ended"
    assert not (folder / "model.pt").exists()


def test_json(failing: tuple[Path, Any]) -> None:
    found = json.loads((failing[0] / "c.json").read_text())
    assert found["schema"] == "whynan.check/1"
    assert found["script"] == "train.py"
    assert found["steps"] == 3
    first = found["suspects"][0]
    assert (first["op"], first["line"], first["cause"], first["witness"], first["rank"]) == (
        "log",
        14,
        "log-of-zero",
        True,
        1,
    )
    assert first["phase"] in ("forward", "backward")
    assert first["range"]["input"] == [0.0, 1.0] and first["range"]["dtype"] == "float32"
    assert {"file", "function", "code", "why", "remedies"} <= set(first)
    assert all({"check", "severity", "line", "message"} <= set(finding) for finding in found["review"])


def test_sarif_has_the_shape_of_the_standard(failing: tuple[Path, Any]) -> None:
    log = json.loads((failing[0] / "c.sarif").read_text())
    assert log["version"] == "2.1.0" and "sarif-2.1.0" in log["$schema"]
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    rules = {rule["id"] for rule in driver["rules"]}
    assert driver["name"] == "whynan" and rules
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    assert run["results"]
    for result in run["results"]:
        assert result["ruleId"] in rules
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        for location in result.get("locations", ()):
            physical = location["physicalLocation"]
            assert physical["artifactLocation"]["uri"] == "train.py"
            assert physical["region"]["startLine"] >= 1
    assert run["results"][0]["level"] == "error"


def test_annotations(failing: tuple[Path, Any]) -> None:
    lines = [line for line in failing[1].stdout.splitlines() if line.startswith("::")]
    assert any(re.match(r"::error file=train\.py,line=14,title=whynan log-of-zero::", line) for line in lines)


def test_page(failing: tuple[Path, Any]) -> None:
    page = (failing[0] / "c.html").read_text()
    assert "torch.log(p)" in page and "http" not in page


def test_a_clean_script_has_no_suspects(tmp_path: Path) -> None:
    done = check(tmp_path, CLEAN, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 suspects" in done.stdout
    assert done.stderr == ""


def test_a_comment_accepts_a_line(tmp_path: Path) -> None:
    source = FAILING.replace("# the line", "# whynan: ok the demo of a paper")
    done = check(tmp_path, source, "--json", "c.json")
    assert done.returncode == 0, done.stdout
    assert "accepted by a comment" in done.stdout
    assert json.loads((tmp_path / "c.json").read_text())["suspects"][0]["accepted"] == "the demo of a paper"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("print('no framework')", "neither PyTorch nor JAX"),
        ("import torch\nprint(torch.ones(2).sum())", "0 backward passes"),
        ("import torch\nraise ValueError('no data in ./set')", "ValueError: no data in ./set"),
    ],
)
def test_nothing_to_check_is_said(tmp_path: Path, source: str, said: str) -> None:
    done = check(tmp_path, source, "--quiet")
    assert done.returncode == 2, done.stdout
    assert said in done.stdout


def test_a_step_that_never_ends_is_said(tmp_path: Path) -> None:
    source = "import time, torch\nwhile True:\n    torch.ones(3).sum()\n    time.sleep(0.01)\n"
    done = check(tmp_path, source, "--quiet", "--wait", "15")  # on a busy machine PyTorch alone takes some of it
    assert done.returncode == 2
    assert "no training step ended within 15 s" in done.stdout and "PyTorch operations" in done.stdout


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whynan", "check", "nobody.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "nobody.py" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    source = "import sys, torch\nprint('here', file=sys.stderr, flush=True)\nwhile True:\n    torch.ones(3).sum()\n"
    (tmp_path / "train.py").write_text(source)
    command = [sys.executable, "-B", "-m", "whynan", "check", "--json", "c.json", "train.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_loader_without_data_is_said(tmp_path: Path) -> None:
    source = FAILING.replace("torch.randn(40, 6)", "torch.randn(0, 6)").replace("range(100)", "range(2)")
    done = check(tmp_path, source, "--quiet")
    assert done.returncode == 2, done.stdout
    assert "before its second training step" in done.stdout and "0 backward passes" in done.stdout
