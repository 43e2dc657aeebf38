"""The Faster R-CNN of examples/: it trains, it breaks in four ways, and each is explained."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "examples" / "mindspore_faster_rcnn"


def run(place: Path, *options: str) -> dict[str, Any]:
    out = place / "out"
    command = [sys.executable, "-m", "whynan", "run", "--no-prove", "--out", str(out), str(FOLDER / "train.py")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, *options], cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (out / "report.json").exists(), done.stderr[-2000:]
    assert "the run goes on without it" not in done.stderr
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.mark.parametrize(
    ("name", "function", "code", "causes"),
    [
        ("division", "relative_rpn_terms", "ops.square(diff) / ops.abs(diff)", {"division-by-zero"}),
        (
            "preprocessing",
            "construct",
            "(x - mean) / std",
            {"division-by-zero", "normalization-zero-variance", "constant-input"},
        ),
        ("learning-rate", None, None, {"learning-rate-too-high", "exploding-gradient"}),
        ("clipping", None, None, {"exploding-gradient", "learning-rate-too-high"}),
    ],
)
def test_broken(name: str, function: str | None, code: str | None, causes: set[str], tmp_path: Path) -> None:
    report = run(tmp_path, "--broken", name, "--epochs", "1")
    incident = report["incidents"][0]
    assert report["outcome"] == "non-finite"
    assert incident["replay"]["reproduced"]
    assert incident["causes"][0]["slug"] in causes
    if function is not None and code is not None:
        assert incident["origin"]["function"] == function
        assert code in incident["origin"]["code"]
        assert Path(incident["origin"]["file"]).name == "broken.py"
    else:
        assert "clip-gradients" in [remedy["slug"] for remedy in incident["remedies"]]
    bad = [term["name"] for term in incident["loss_terms"] if term["first_nonfinite"]]
    wanted = {"division": "loss_rpn_box_reg", "learning-rate": "loss_box_reg", "clipping": "loss_box_reg"}
    assert name not in wanted or wanted[name] in bad


def test_clipping_heals_it(tmp_path: Path) -> None:
    report = run(tmp_path, "--broken", "clipping", "--clip", "norm", "--epochs", "1")
    assert report["outcome"] == "healthy"


def test_it_trains(tmp_path: Path) -> None:
    report = run(tmp_path, "--epochs", "1")
    assert report["outcome"] == "healthy"
    assert report["run"]["steps"] == 8
