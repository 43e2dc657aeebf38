"""Demos are innocent scripts that really fail, in sight, and each failure is diagnosed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whynan.cli.demo import MAIN, find_demos

# What each demo's report must name. The lines are found by their text, so that a script may grow.
TRUTH = {
    "coins": {"code": "per_image = per_image / n_boxes", "causes": {"division-by-zero", "empty-target"}, "sample": 26},
    "vae": {"code": "torch.exp(0.5 * log_variance)", "causes": {"exp-overflow", "extreme-input-scale"}, "sample": None},
    "siamese": {"code": ".sum(dim=1).sqrt()", "causes": {"sqrt-at-zero"}, "sample": 508},
    "learning-rate": {"code": None, "causes": {"learning-rate-too-high", "exploding-gradient"}, "sample": None},
}


def whynan(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whynan", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=600
    )


def test_list_names_every_demo_the_main_one_first() -> None:
    done = whynan("demo", "--list")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names[0] == MAIN
    assert set(names) == set(TRUTH) == set(find_demos())


def test_unknown_demo_is_answered_with_the_known_ones() -> None:
    done = whynan("demo", "nosuch")
    assert done.returncode == 2
    assert "nosuch" in done.stderr
    assert "learning-rate" in done.stderr


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_script_is_innocent(name: str) -> None:
    """A demo script looks as if nobody knew: it checks nothing, and says nothing about its end."""
    demo = find_demos()[name]
    text = demo.script.read_text(encoding="utf-8").lower()
    assert demo.title.endswith(".")
    assert demo.missing() == []
    for word in ("nan", "isfinite", "inf ", "defect", "whynan"):
        assert f" {word}" not in text.replace("(", " ")


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_demo_fails_and_is_diagnosed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = whynan("demo", name)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(tmp_path.glob(f"whynan-demo-{name}-*"))
    assert str(folder) in done.stdout
    (incident, *_) = json.loads((folder / "whynan-out" / "report.json").read_text())["incidents"]
    truth = TRUTH[name]
    if truth["code"] is not None:
        lines = (folder / "train.py").read_text().splitlines()
        assert truth["code"] in lines[incident["origin"]["line"] - 1]
    assert incident["causes"][0]["slug"] in truth["causes"]
    if truth["sample"] is not None:
        assert truth["sample"] in [sample["index"] for sample in incident["samples"]]
