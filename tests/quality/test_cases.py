"""How good diagnoses are: every case is run as its user would run it, and the report is held against the truth.

The project's own cases lie in `tests/cases`; the folder that WHYNAN_CASES names holds more. Single answers may be
missed; what is asserted case by case is that nothing healthy is called ill and nothing ill is missed, and over all
cases the shares of right lines, causes and samples, and of the cases for which a right remedy was confirmed.
"""

import ast
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from whynan.report.schema import schema

OWN = Path(__file__).parent.parent / "cases"


def _folders() -> Iterator[Path]:
    roots = [OWN, *(Path(root) for root in [os.environ.get("WHYNAN_CASES")] if root)]
    for root in roots:
        for file in sorted(root.rglob("case.json")):
            if json.loads(file.read_text())["framework"] == "torch" and "launch" not in json.loads(file.read_text()):
                yield file.parent


FOLDERS = list(_folders())


@dataclass
class Answer:
    """One report held against the truth; None where the truth says nothing."""

    name: str
    is_right_line: bool | None
    is_right_cause: bool
    is_right_sample: bool | None
    is_proved: bool | None
    """Whether a remedy that really works was confirmed by an experiment."""


def run(server: Any, script: Path, tmp_path: Path) -> dict[str, Any]:
    """Run one script under whynan in a folder of its own; return its report."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    shutil.copy(script, work / "train.py")
    server.run(work, ["-m", "whynan", "run", "--out", str(out), "train.py"], tmp_path / "log")
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, schema())
    return report


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_case(folder: Path, tmp_path: Path, server: Any, record_property: Any) -> None:
    case = json.loads((folder / "case.json").read_text())
    report = run(server, folder / "train.py", tmp_path)
    if case["cause"] == "none":
        assert report["outcome"] == "healthy"
        assert report["incidents"] == []
        return
    assert report["outcome"] in ("non-finite", "diverging")
    incident = report["incidents"][0]
    # The shares over all cases are asserted where the answers of all test processes come together: tests/conftest.py.
    record_property("answer", asdict(judge(case, (folder / "train.py").read_text(), incident)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_fixed_case_is_healthy(folder: Path, tmp_path: Path, server: Any) -> None:
    report = run(server, folder / "fixed.py", tmp_path)
    assert report["outcome"] == "healthy", report["incidents"]


def judge(case: dict[str, Any], source: str, incident: dict[str, Any]) -> Answer:
    """Hold one incident against the truth."""
    truth, origin = case.get("origin") or {}, incident.get("origin") or {}
    line = None
    if truth.get("line_contains"):
        accepted = [truth, *case.get("also_origin", [])]
        line = any(is_same_statement(source, item["line_contains"], origin.get("line")) for item in accepted)
    causes = [cause["slug"] for cause in incident["causes"]]
    sample = None
    if case.get("sample") is not None:
        sample = case["sample"] in [item["index"] for item in incident["samples"]]
    accepted_causes = {case["cause"], *case.get("also_accept", [])}
    proved = {remedy["slug"] for remedy in incident["remedies"] if remedy["proved"] is True}
    remedies = set(case.get("remedies", []))
    return Answer(
        case["name"],
        line,
        bool(causes) and causes[0] in accepted_causes,
        sample,
        bool(proved & remedies) if remedies else None,
    )


def is_same_statement(source: str, text: str, line: int | None) -> bool:
    """Whether `line` lies in the statement whose line contains `text`."""
    truths = [number for number, code in enumerate(source.splitlines(), 1) if text in code]
    if line is None or not truths:
        return False
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and not hasattr(node, "body")
    ]
    return line in truths or any(a <= truths[0] <= b and a <= line <= b for a, b in spans)
