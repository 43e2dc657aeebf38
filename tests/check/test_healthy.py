"""Scripts of practice that stay finite: no suspect with a witness, no error of the review, no suspect at all."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("healthy")


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_suspected(script: Path) -> None:
    command = [sys.executable, "-B", "-m", "whynan", "check", "--quiet", "--no-github", "--budget", "4", script.name]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 suspects, 0 with a witness; nothing in the review" in done.stdout, done.stdout
