"""Options of `whynan run`, and how a run begins and ends."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whynan.cli.main import cli
from whynan.cli.run import run
from whynan.launch import RunOptions


def options_of(monkeypatch: pytest.MonkeyPatch, *args: str) -> RunOptions:
    seen: list[RunOptions] = []
    monkeypatch.setattr("whynan.cli.run.launch", seen.append)
    run.main(list(args), standalone_mode=False)()
    return seen[0]


def test_everything_after_the_script_belongs_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain = RunOptions(
        out=tmp_path / "whynan-out",
        argv=("train.py", "--out", "x", "-m", "--", "--help"),
        script="train.py",
        root=tmp_path,
    )
    assert options_of(monkeypatch, *plain.argv) == plain
    assert options_of(
        monkeypatch, "--policy", "recover", "--no-prove", "--budget=5", "--rerun", "--out", "nan", *plain.argv
    ) == replace(plain, policy="recover", prove=False, budget=5.0, rerun=True, out=tmp_path / "nan")
    assert options_of(monkeypatch, "--", "train.py").argv == ("train.py",)


@pytest.mark.parametrize("module", [("-m", "pkg.train"), ("-mpkg.train",)])
def test_everything_after_the_module_belongs_to_it(
    module: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = options_of(monkeypatch, "--out", "-m", *module, "--out", "x", "-m", "y")
    assert (options.module, options.script, options.root) == ("pkg.train", None, tmp_path)
    assert options.argv == ("pkg.train", "--out", "x", "-m", "y")
    assert options.out == tmp_path / "-m"


def whynan(cwd: Path, *args: str, setup: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line; `setup` is run before it, in its process."""
    start = f"import sys\n{textwrap.dedent(setup)}\nfrom whynan.cli.main import main\nsys.exit(main())\n"
    return subprocess.run([sys.executable, "-c", start, *args], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_a_missing_script(tmp_path: Path) -> None:
    missing = whynan(tmp_path, "run", "no/train.py")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert str(tmp_path / "no/train.py") in missing.stderr
    assert whynan(tmp_path, "run").returncode == 2
    assert "train.py" in whynan(tmp_path, "run").stderr
    assert whynan(tmp_path, "run", "--policy", "panic", "x.py").returncode == 2


def test_help_teaches(tmp_path: Path) -> None:
    for command in (["--help"], ["run", "--help"]):
        shown = whynan(tmp_path, *command)
        assert shown.returncode == 0
        assert "whynan run" in shown.stdout
    assert set(cli.list_commands(None)) >= {"run", "report", "explain", "demo", "data", "mcp"}  # type: ignore[arg-type]


def test_a_place_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "main.py").write_text("print('the script ran')\n")
    told = whynan(tmp_path, "run", "--out", "file/report", "main.py", setup=SESSION)
    assert told.stdout == "start\nthe script ran\nfinish None\n"
    assert told.stderr.count("\n") == 1
    assert told.stderr.startswith(f"whynan: can't write the report to {tmp_path / 'file/report'}: ")


SESSION = """
    from whynan import pipeline
    from whynan.launch.host import Unwind
    STATUS = None
    class Session:
        def finish(self, error):
            print("finish", repr(error), flush=True)
            return STATUS
    def start(options):
        print("start", flush=True)
        return Session()
    pipeline.start = start
"""

ENDINGS: dict[str, tuple[str, int | None, str, int]] = {
    "end": ("print('x')", None, "start\nx\nfinish None\natexit\n", 0),
    "overridden": ("print('x')", 3, "start\nx\nfinish None\natexit\n", 3),
    "exit": ("sys.exit(4)", None, "start\nfinish SystemExit(4)\natexit\n", 4),
    "exit overridden": ("sys.exit(4)", 3, "start\nfinish SystemExit(4)\natexit\n", 3),
    "error": (
        "int('x')",
        None,
        "start\nfinish ValueError(\"invalid literal for int() with base 10: 'x'\")\natexit\n",
        1,
    ),
    "stopped": ("raise Unwind", 3, "start\nfinish Unwind()\natexit\n", 3),
    "stopped without a status": ("raise Unwind", None, "start\nfinish Unwind()\natexit\n", 3),
    "os._exit": ("os._exit(5)", 3, "start\nfinish None\n", 5),
    "child": ("os.fork() or os._exit(5); os.wait()", None, "start\nfinish None\natexit\n", 0),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(name: str, tmp_path: Path) -> None:
    statement, status, stdout, returncode = ENDINGS[name]
    prologue = "import atexit, os, sys\nfrom whynan.launch.host import Unwind\natexit.register(print, 'atexit')\n"
    (tmp_path / "main.py").write_text(prologue + statement + "\n")
    ended = whynan(tmp_path, "run", "main.py", setup=SESSION.replace("STATUS = None", f"STATUS = {status}"))
    assert (ended.stdout, ended.returncode) == (stdout, returncode)
    assert ("Traceback" in ended.stderr) == (name == "error")
    assert "whynan" not in ended.stderr


@pytest.mark.parametrize("broken", ["def start(options): raise OSError('no')", "Session.finish = None"])
def test_an_error_in_whynan_changes_nothing_else(broken: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import sys\nprint('x')\nsys.exit(4)\n")
    setup: Any = textwrap.dedent(SESSION) + broken + "\npipeline.start = start\n"
    ended = whynan(tmp_path, "run", "main.py", setup=setup)
    assert ended.returncode == 4
    assert "x\n" in ended.stdout
    assert ended.stderr.startswith("whynan: ")
    assert ended.stderr.count("\n") == 1
