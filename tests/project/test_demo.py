"""Demos are innocent scripts that really fail, in sight, and each failure is diagnosed."""

import difflib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whynan.cli.demo import INCIDENT_STATUS, MAIN, find_demos

# What each demo's report must name. The lines are found by their text, so that a script may grow.
TRUTH: dict[str, dict[str, Any]] = {
    "attention": {"code": "scores = self.query(x) @", "causes": {"half-precision-overflow"}},
    "box-width": {"code": "losses = model(images, targets)", "causes": {"degenerate-box"}, "sample": 47},
    "coins": {"code": "per_image = per_image / n_boxes", "causes": {"division-by-zero", "empty-target"}, "sample": 26},
    "deeplab": {"code": "F.cross_entropy(scores", "causes": {"empty-target"}, "sample": 1},
    "keras": {"code": "ops.log(p)", "causes": {"log-of-zero"}},
    "learning-rate": {"causes": {"learning-rate-too-high", "exploding-gradient"}},
    "numpy": {"code": "np.exp(scores)", "causes": {"exp-overflow"}},
    "rpn": {"code": "torch.log(1 - p)", "causes": {"log-of-zero"}},
    "siamese": {"code": ".sum(dim=1).sqrt()", "causes": {"sqrt-at-zero"}, "sample": 508},
    "textures": {"causes": {"learning-rate-too-high", "exploding-gradient"}},
    "vae": {"code": "torch.exp(0.5 * log_variance)", "causes": {"exp-overflow", "extreme-input-scale"}},
}


def whynan(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whynan", *arguments]
    kept = os.environ | environment
    return subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False, timeout=600)


def test_list_names_every_demo_the_main_one_first() -> None:
    done = whynan("demo", "--list")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names[0] == MAIN
    assert set(names) == {*TRUTH, "mindspore"} == set(find_demos())


def test_unknown_demo_is_answered_with_the_known_ones() -> None:
    done = whynan("demo", "nosuch")
    assert done.returncode == 2
    assert "nosuch" in done.stderr
    assert "learning-rate" in done.stderr


@pytest.mark.parametrize("name", sorted({*TRUTH, "mindspore"}))
def test_script_is_innocent(name: str) -> None:
    """A demo script looks as if nobody knew: it checks nothing, and says nothing about its end."""
    demo = find_demos()[name]
    text = demo.script.read_text(encoding="utf-8").lower()
    assert demo.title.endswith(".")
    assert demo.missing() in ([], ["mindspore"])
    for word in ("nan", "isfinite", "inf ", "defect", "whynan"):
        assert f" {word}" not in text.replace("(", " ")


SHORT = ("attention", "box-width", "deeplab", "rpn", "textures")
"""Of these the remedies are not tried here: large models, and the experiments have tests of their own."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that runs a demo, once for all tests, and returns its folder."""
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            place = tmp_path_factory.mktemp("demo")
            folders[name] = _run_short(name, place) if name in SHORT else _run_demo(name, place)
        return folders[name]

    return run


def _run_short(name: str, place: Path) -> Path:
    shutil.copy(find_demos()[name].script, place)
    done = whynan("run", "--no-prove", "train.py", cwd=place)
    assert done.returncode == INCIDENT_STATUS, done.stdout + done.stderr
    return place


def _run_demo(name: str, place: Path) -> Path:
    done = whynan("demo", name, TMPDIR=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(place.glob(f"whynan-demo-{name}-*"))
    assert str(folder) in done.stdout
    return folder


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_demo_fails_and_is_diagnosed(name: str, ran: Callable[[str], Path]) -> None:
    folder = ran(name)
    (incident, *_) = json.loads((folder / "whynan-out" / "report.json").read_text())["incidents"]
    truth = TRUTH[name]
    if "code" in truth:
        lines = (folder / "train.py").read_text().splitlines()
        assert truth["code"] in lines[incident["origin"]["line"] - 1]
    assert incident["causes"][0]["slug"] in truth["causes"]
    assert any(remedy["proved"] for remedy in incident["remedies"]) or name in SHORT
    if "sample" in truth:
        assert truth["sample"] in [sample["index"] for sample in incident["samples"]]


@pytest.mark.parametrize("name", sorted({*TRUTH, "mindspore"}))
def test_twin_is_the_same_but_for_a_small_change(name: str) -> None:
    demo = find_demos()[name]
    before, after = demo.text.splitlines(), demo.fixed.splitlines()
    compile(demo.fixed, "fixed.py", "exec")
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:2] not in ("--", "++")]
    assert 0 < len(changed) <= 24


@pytest.mark.parametrize("name", ["learning-rate", "numpy", "siamese"])
def test_twin_stays_finite(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The quick ones; the twins of the others are run by hand: `whynan demo NAME --fixed`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = whynan("demo", name, "--fixed")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(tmp_path.glob(f"whynan-demo-{name}-*"))
    assert json.loads((folder / "whynan-out" / "report.json").read_text())["outcome"] == "healthy"


def test_report_of_a_detector_has_its_sample_and_its_proposals(ran: Callable[[str], Path]) -> None:
    out = ran("rpn") / "whynan-out"
    report = json.loads((out / "report.json").read_text())
    (incident,) = report["incidents"]
    pictures = incident["pictures"]
    assert {picture["what"] for picture in pictures} <= {"sample", "proposals"}
    proposed = [picture for picture in pictures if picture["what"] == "proposals"]
    assert [picture["step"] for picture in proposed] == [incident["step"], 0, 1]
    for picture in proposed:
        assert (out / picture["file"]).read_bytes().startswith(b"\x89PNG")
        assert any("deltas from" in fact for fact in picture["facts"])
        kinds = {box["kind"] for box in picture["boxes"]}
        assert kinds >= {"target", "proposal"}
