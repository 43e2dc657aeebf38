"""`whynan data` as users and scripts see it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.data import sets


def whynan(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whynan", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | environment, timeout=120,
    )  # fmt: skip


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    pictures = sets.pictures(8)
    for picture in pictures[:5]:
        picture.objects[1] = (1, 9, 9, 9, 20)
    return sets.write_voc(tmp_path / "set", pictures)


def test_exit_statuses(faulty: Path, tmp_path: Path) -> None:
    assert whynan("data", sets.write_voc(tmp_path / "clean", sets.pictures())).returncode == 0
    assert whynan("data", faulty).returncode == 1
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "README").write_text("hello")
    for bad, words in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "nothing", "no data set was recognised"),
        ("nosuch://bucket/x", "cannot be opened"),
        ("/dev/null", "neither a folder nor a regular file"),
    ):
        done = whynan("data", bad)
        assert (done.returncode, done.stdout) == (2, ""), bad
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_format_that_is_not_there(faulty: Path) -> None:
    done = whynan("data", faulty, "--format", "coco")
    assert done.returncode == 2
    assert "8 .xml" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--classes", "0"],
        ["--classes", ","],
        ["--json", "no/such/folder/x.json"],
        ["--workers", "0"],
        ["--format", "x"],
    ],
)
def test_bad_options(arguments: list[str], faulty: Path) -> None:
    done = whynan("data", faulty, *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_output_of_a_pipe(faulty: Path) -> None:
    done = whynan("data", faulty)
    assert "\x1b" not in done.stdout + done.stderr
    assert "recognised voc in Annotations" in done.stderr
    lines = done.stdout.splitlines()
    assert "24 annotations, 3 classes" in done.stdout
    assert "Normalize" in done.stdout and "ln 3" in done.stdout
    assert sum("Annotations/im" in line for line in lines) == 3
    assert "... and 2 more" in done.stdout
    assert "5 errors; --all shows all of them; whynan explain degenerate-box" in lines[-1]
    assert len(lines) < 24
    everything = whynan("data", faulty, "--all").stdout
    assert sum("Annotations/im" in line for line in everything.splitlines()) == 5
    assert "--all" not in everything


def test_json(faulty: Path, tmp_path: Path) -> None:
    place = tmp_path / "data.json"
    assert whynan("data", faulty, "--json", place).returncode == 1
    content = json.loads(place.read_text())
    assert content["schema"] == "whynan.data/1"
    assert (content["path"], content["format"], content["engine"]) == (str(faulty), "voc", "local")
    assert content["counts"]["images"] == 8
    assert content["counts"]["annotations"] == 24
    assert content["counts"]["classes"] == {"cat": 8, "dog": 8, "bird": 8}
    assert len(content["statistics"]["mean"]) == len(content["statistics"]["std"]) == 3
    first = content["findings"][0]
    assert first == {
        "check": "box-zero-size",
        "severity": "error",
        "file": "Annotations/im0.xml",
        "annotation": 1,
        "value": "xmin=xmax=9",
        "message": "box (xmin=9 ymin=9 xmax=9 ymax=20) has no width",
        "cause": "degenerate-box",
        "fixable": True,
    }


def test_classes_as_number_names_and_file(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path / "set", sets.pictures(), config=False)
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbird\n")
    for good in ("3", "cat,dog,bird", str(names)):
        assert whynan("data", root, "--classes", good).returncode == 0
    assert whynan("data", root, "--classes", "2").returncode == 1


def test_a_file_is_a_data_set_too(tmp_path: Path) -> None:
    root = sets.write_coco(tmp_path / "set", sets.pictures())
    done = whynan("data", root / "annotations.json")
    assert done.returncode == 0
    assert "coco" in done.stdout and "4 images" in done.stdout
    yolo = sets.write_yolo(tmp_path / "yolo", sets.pictures())
    assert "yolo" in whynan("data", yolo / "data.yaml").stdout


def test_annotations_only(faulty: Path) -> None:
    done = whynan("data", faulty, "--annotations-only", "--no-cache")
    assert "8 files read" in done.stdout
    assert "box-zero-size" in done.stdout


def test_remote_paths(tmp_path: Path) -> None:
    root = sets.write_coco(tmp_path / "set", sets.pictures())
    done = whynan("data", f"file://{root}")
    assert done.returncode == 0, done.stderr
    assert "4 images, 12 annotations" in done.stdout


def test_missing_library_is_named_with_its_pip_line(faulty: Path, tmp_path: Path) -> None:
    """Each library of the extra, hidden: the message names it and what to install."""
    for module, extra in (("numpy", "data"), ("PIL", "data"), ("lxml", "data")):
        (tmp_path / module).mkdir()
        (tmp_path / module / "sitecustomize.py").write_text(
            "import sys\n"
            "class Hide:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name.split('.')[0] == {module!r}:\n"
            "            raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
            "sys.meta_path.insert(0, Hide())\n"
        )
        search = os.pathsep.join([str(tmp_path / module), os.environ.get("PYTHONPATH", "")])
        done = whynan("data", faulty, "--workers", "1", "--no-cache", PYTHONPATH=search)
        assert done.returncode == 2, done.stdout
        assert f"{module}, which is not installed here: pip install 'whynan[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    text = whynan("data", "--help").stdout
    for word in (
        "COCO",
        "YOLO",
        "--ignore-index",
        "--fix",
        "--html",
        "--no-cache",
        "Exit status",
        "whynan data camvid",
    ):
        assert word in text


def test_closed_pipe(faulty: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m whynan data {faulty} --all | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1


def test_json_on_standard_output_is_json_and_nothing_else(tmp_path):
    import json
    import subprocess
    import sys

    import numpy as np

    np.savez(tmp_path / "x.npz", x=np.array([[1.0, np.nan], [2.0, 3.0]]))
    command = [sys.executable, "-m", "whynan", "data", "x.npz", "--json", "-", "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["schema"] == "whynan.data/1"
    assert "value-nan" in done.stderr
    assert not (tmp_path / "-").exists()
