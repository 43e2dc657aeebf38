"""The core imports no framework, and this test can fail."""

import subprocess
import sys
from pathlib import Path

FRAMEWORKS = "torch", "numpy", "tensorflow", "keras", "jax", "rich", "jinja2"
LEFT = f"import sys; print(sorted(set({FRAMEWORKS!r}) & set(sys.modules)))\n"


def python(*arguments: str, cwd: Path | None = None) -> str:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_importing_whynan_imports_no_framework() -> None:
    assert python("-c", "import whynan, whynan.cli.main, whynan.cli.run, whynan.records\n" + LEFT) == "[]\n"


def test_a_script_starts_without_frameworks(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(LEFT + "for i in range(2): print(i)\n" + LEFT)
    assert python("-m", "whynan", "run", "main.py", cwd=tmp_path).startswith("[]\n0\n1\n[]\n")


def test_these_tests_can_fail(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("")
    assert python("-c", "import whynan, numpy\n" + LEFT, cwd=tmp_path) == "['numpy']\n"
    (tmp_path / "main.py").write_text("import numpy\n" + LEFT)
    assert python("-m", "whynan", "run", "main.py", cwd=tmp_path).startswith("['numpy']\n")
