"""MindSpore: every case is run as its user would run it, the report is held against the truth.

The project's own cases lie in `tests/cases_mindspore`; of the MindSpore cases in the folder that WHYNAN_CASES names
it is asserted that nothing healthy is called ill and nothing ill is missed.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OWN = Path(__file__).parents[2] / "cases_mindspore"


def folders() -> Iterator[Path]:
    for root in [OWN, *(Path(root) for root in [os.environ.get("WHYNAN_CASES")] if root)]:
        for file in sorted(root.rglob("case.json")):
            if json.loads(file.read_text())["framework"] == "mindspore":
                yield file.parent


FOLDERS = list(folders())
ILL = [folder for folder in FOLDERS if json.loads((folder / "case.json").read_text())["cause"] != "none"]


def run(script: Path, place: Path, *options: str) -> dict[str, Any]:
    """Run one script under whynan in a folder of its own; return its report."""
    shutil.copy(script, place / "train.py")
    command = [sys.executable, "-m", "whynan", "run", *options, "--out", str(place / "out"), "train.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    assert (place / "out" / "report.json").exists(), done.stderr[-2000:]
    assert "the run goes on without it" not in done.stderr
    report: dict[str, Any] = json.loads((place / "out" / "report.json").read_text())
    return report


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_case(folder: Path, tmp_path: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    report = run(folder / "train.py", tmp_path, "--no-prove")
    if case["cause"] == "none":
        assert report["outcome"] == "healthy", report["incidents"]
        return
    assert report["outcome"] in ("non-finite", "diverging")
    if folder.parent != OWN:
        return
    incident = report["incidents"][0]
    assert incident["causes"][0]["slug"] in {case["cause"], *case["also_accept"]}
    text = case["origin"]["line_contains"]
    if text is not None:
        assert is_same_statement((folder / "train.py").read_text(), text, incident["origin"]["line"])
        assert incident["origin"]["phase"] == case["phase"] or case["phase"] == "optimizer"
    if case["sample"] is not None:
        assert [sample["index"] for sample in incident["samples"]] == [case["sample"]]
    if case["loss_term"] is not None:
        assert [t["name"] for t in incident["loss_terms"] if t["first_nonfinite"]] == [case["loss_term"]]


@pytest.mark.parametrize("folder", ILL, ids=lambda folder: folder.name)
def test_fixed_case_is_healthy(folder: Path, tmp_path: Path) -> None:
    report = run(folder / "fixed.py", tmp_path, "--no-prove")
    assert report["outcome"] == "healthy", report["incidents"]


@pytest.mark.parametrize("name", ["ms-distance-slope", "ms-rate-too-high", "ms-needs-clipping"])
def test_a_remedy_is_proved(name: str, tmp_path: Path) -> None:
    case = json.loads((OWN / name / "case.json").read_text())
    incident = run(OWN / name / "train.py", tmp_path)["incidents"][0]
    assert {remedy["slug"] for remedy in incident["remedies"] if remedy["proved"]} & set(case["remedies"])


@pytest.mark.parametrize("name", ["ms-hole-in-shuffled-data", "ms-graph-mode-norm", "ms-compiled-step-exp"])
def test_recovery_skips_and_goes_on(name: str, tmp_path: Path) -> None:
    report = run(OWN / name / "train.py", tmp_path, "--no-prove", "--policy", "recover")
    assert report["run"]["steps"] >= 9
    assert report["incidents"]
    assert all(incident["action"]["policy"] == "recover" for incident in report["incidents"])


def test_recovery_goes_back_and_makes_smaller_updates(tmp_path: Path) -> None:
    report = run(OWN / "ms-rate-too-high" / "train.py", tmp_path, "--no-prove", "--policy", "recover")
    assert [incident["action"]["policy"] for incident in report["incidents"]] == ["recover"]
    assert "went back to step 0; updates are 0.2 of the script's" in report["incidents"][0]["action"]["detail"]
    assert report["run"]["steps"] > report["incidents"][0]["step"] + 5


def is_same_statement(source: str, text: str, line: int | None) -> bool:
    """Whether `line` lies in the statement whose line contains `text`."""
    truth = next(number for number, code in enumerate(source.splitlines(), 1) if text in code)
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and not hasattr(node, "body")
    ]
    return line is not None and (line == truth or any(a <= truth <= b and a <= line <= b for a, b in spans))
