"""A patch is a unified diff of one line that leaves a program."""

import shutil
import subprocess
from pathlib import Path

import pytest

from whynan.experiments import patched_source, unified_diff

SOURCE = """import torch

def loss(p):
    if p is None:
        return None
    return -torch.log(p).mean()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SOURCE)
    return path


def test_the_line_is_replaced_and_keeps_its_indentation(script: Path) -> None:
    changed = patched_source(str(script), 6, "return -torch.log(p.clamp(min=1e-7)).mean()")
    assert changed is not None
    assert changed.splitlines()[5] == "    return -torch.log(p.clamp(min=1e-7)).mean()"
    assert changed.splitlines()[:5] == SOURCE.splitlines()[:5]


def test_patch_takes_the_diff(script: Path) -> None:
    if shutil.which("patch") is None:
        pytest.skip("no patch command")
    new = "return -torch.log(p.clamp(min=1e-7)).mean()"
    diff = unified_diff(str(script), 6, new, "train.py")
    assert diff is not None
    subprocess.run(["patch", "-p1"], input=diff, text=True, cwd=script.parent, check=True, capture_output=True)
    assert script.read_text() == patched_source(str(script), 6, new)


@pytest.mark.parametrize(
    "new",
    [
        "return -torch.log(p.clamp(min=1e-7).mean()",  # no program
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",  # nothing like the line: a suggestion
        "return -torch.log(...).mean()",
        "return -torch.log(p).mean()",  # no change
    ],
)
def test_what_is_no_new_form_of_the_line_is_no_diff(script: Path, new: str) -> None:
    assert unified_diff(str(script), 6, new) is None
