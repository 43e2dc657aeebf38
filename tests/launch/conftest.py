"""Runs a program under plain python and under whynan, for tests that compare the two."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest


@dataclass(frozen=True)
class Outcome:
    """What a run did that anybody could see."""

    status: int
    stdout: str
    stderr: str
    files: dict[str, bytes]


def run(directory: Path, command: list[str], interrupt: signal.Signals | None = None) -> Outcome:
    """Run `command` in a copy of `directory`; with `interrupt` send that signal when the program prints "ready"."""
    place = directory.parent / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(directory, place)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    environment["PYTHONHASHSEED"] = "0"
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = ""
    if interrupt is not None:
        assert process.stdout is not None
        first = process.stdout.readline()
        # The line is out before `print` has returned: let the program come to where it waits.
        time.sleep(0.5)
        process.send_signal(interrupt)
    stdout, stderr = process.communicate(timeout=120)
    return Outcome(process.returncode, _normal(first + stdout), _normal(stderr), _files(place))


class LikePython(Protocol):
    """Write files, run `program` plain and watched, compare all that can be seen, return what the plain run did."""

    def __call__(
        self, files: dict[str, str | bytes], *program: str, interrupt: signal.Signals | None = None
    ) -> Outcome: ...


@pytest.fixture
def like_python(tmp_path: Path) -> LikePython:
    def compare(files: dict[str, str | bytes], *program: str, interrupt: signal.Signals | None = None) -> Outcome:
        source = tmp_path / "source"
        write(source, files)
        command = list(program) or [next(iter(files))]
        plain = run(source, command, interrupt)
        watched = run(source, ["-m", "whynan", "run", *command], interrupt)
        assert watched.stdout == plain.stdout
        assert watched.stderr == plain.stderr
        assert watched.status == plain.status
        assert sorted(watched.files) == sorted(plain.files)
        for name, content in plain.files.items():
            if name.endswith(".pyc"):
                assert b"__whynan" not in watched.files[name]
            else:
                assert watched.files[name] == content, name
        return plain

    return compare


def write(directory: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).lstrip("\n").encode())


def _files(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and "whynan-out" not in path.parts
    }


def _normal(text: str) -> str:
    return re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
