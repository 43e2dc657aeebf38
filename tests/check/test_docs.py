"""The example of docs/check.md is what the command prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "check.md"


def test_the_example_is_what_is_printed(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    source = re.search(r"```python\n(import torch\n.*?)```", text, re.S)
    shown = re.search(r"```console\n\$ whynan check train\.py\n(.*?)```", text, re.S)
    assert source is not None and shown is not None
    (tmp_path / "train.py").write_text(source[1])
    command = [sys.executable, "-m", "whynan", "check", "--quiet", "--no-github", "--save", "found", "train.py"]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr

    def plain(output: str) -> list[str]:
        """Without what the machine decides: seconds, and the last digits of numbers."""
        return [re.sub(r"\d+\.?\d*(e-?\d+)?", "N", line).rstrip() for line in output.strip().splitlines()]

    assert plain(done.stdout)[: len(plain(shown[1]))] == plain(shown[1])
    folder = re.search(r"--replay (found/\S+) train\.py", text)
    assert folder is not None and (tmp_path / folder[1]).is_dir()
