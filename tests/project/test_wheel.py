"""The wheel holds what it should, and works in a fresh environment that has no framework."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)


def dependencies(name: str) -> set[str]:
    """Names of the distributions that `name` needs without any extra, transitively."""
    found = set()
    for requirement in distribution(name).requires or []:
        if ";" in requirement:
            continue
        needed = re.match(r"[\w.-]+", requirement).group()
        found |= {needed} | dependencies(needed)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with whynan and its dependencies alone, copied from here: no network is needed."""
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    assert run(sys.executable, "-m", "venv", "--without-pip", venv).returncode == 0
    python = venv / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    for name in dependencies("whynan"):
        for file in distribution(name).files or []:
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), site / file)
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    assert run(python, "-c", "import torch").returncode != 0
    return venv / "bin"


def test_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"whynan"}
    assert "whynan/py.typed" in names
    assert "whynan/demos/coins/train.py" in names
    assert "whynan/report/schema/report.schema.json" in names
    assert "whynan/data/templates/data.html" in names


def test_wheel_size_is_that_of_source_code(wheel: Path) -> None:
    assert wheel.stat().st_size < 1_000_000
    infos = [info for info in zipfile.ZipFile(wheel).infolist() if info.filename.startswith("whynan/")]
    kinds = {".py", ".html", ".jinja", ".css", ".js", ".json", ".typed"}
    assert {Path(info.filename).suffix for info in infos} == kinds, "no data, no pictures"
    assert max(info.compress_size for info in infos) < 8_000, "no file that is more than source code"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["explain"], ["demo", "--list"], ["data", "--help"]])
def test_commands_work_without_a_framework(fresh: Path, arguments: list[str]) -> None:
    done = run(fresh / "whynan", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_script_runs_without_a_framework(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys\nfor i in range(3):\n    print(i, sys.argv)\nsys.exit(7)\n")
    plain = run(fresh / "python", "train.py", "--lr", "1", cwd=tmp_path)
    watched = run(fresh / "whynan", "run", "train.py", "--lr", "1", cwd=tmp_path)
    assert (watched.returncode, watched.stdout) == (plain.returncode, plain.stdout) == (7, plain.stdout)


def test_data_says_what_it_lacks(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    done = run(fresh / "whynan", "data", tmp_path)
    assert done.returncode == 2
    assert "pip install 'whynan[data]'" in done.stderr


def test_demo_says_what_it_lacks(fresh: Path) -> None:
    done = run(fresh / "whynan", "demo")
    assert done.returncode == 1
    assert "skimage, torch, torchvision" in done.stderr
    assert "whynan[demo]" in done.stderr
