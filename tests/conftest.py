"""Fixtures for tests that run small training scripts under `whynan run`."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

# Tests run side by side: a thread that waits for another must leave its core to them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Importing torch takes longer than any of the scripts: one process imports it, each run is a fork of that process.
_SERVER = """
import json, os, signal, sys
import torch, numpy
import whynan.cli.main, whynan.pipeline, whynan.adapters.torch.adapter, whynan.report.saved, whynan.report.terminal

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        break
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    os._exit(0)
for number, name in enumerate(("/dev/null", job["stdout"], job["stderr"])):
    opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, number)
    os.close(opened)
os.chdir(job["cwd"])
if job["setup"]:
    exec(open(job["setup"]).read(), {})
if job["argv"][0] == "-m":
    from whynan.cli.main import main
    sys.argv[:] = ["whynan", *job["argv"][2:]]
    sys.exit(main())
import runpy
sys.argv[:] = job["argv"]
sys.path[0] = job["cwd"]
runpy.run_path(job["argv"][0], run_name="__main__")
"""


@dataclass(frozen=True)
class Run:
    """What came of one script."""

    place: Path
    status: int
    stdout: str
    stderr: str
    report: Any
    """The content of report.json; None where there is none."""

    @property
    def incident(self) -> Any:
        assert self.report is not None, self.stderr
        assert len(self.report["incidents"]) == 1, (self.report["outcome"], self.stderr)
        return self.report["incidents"][0]

    def line(self, mark: str = "# BAD", file: str | None = None) -> tuple[str, int]:
        """Return the file and the line that carry a mark."""
        for path in [self.place / file] if file else sorted(self.place.rglob("*.py")):
            for number, text in enumerate(path.read_text().splitlines(), 1):
                if text.endswith(mark):
                    return str(path.relative_to(self.place)), number
        raise AssertionError(f"no line is marked {mark}")


class Server:
    """Runs scripts in forks of a process that has imported torch."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )

    def run(self, place: Path, argv: list[str], logs: Path, setup: str | None = None) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        job = {
            "cwd": str(place),
            "argv": argv,
            "stdout": str(logs) + ".out",
            "stderr": str(logs) + ".err",
            "setup": setup,
        }
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Training(Protocol):
    """Write files, run the first of them (or `program`) under whynan with `options`, return what came of it.

    `setup` names one of the files that is run before whynan, in its process.
    """

    def __call__(
        self,
        files: str | dict[str, str],
        *options: str,
        program: tuple[str, ...] = (),
        plain: bool = False,
        setup: str | None = None,
    ) -> Run: ...


@pytest.fixture
def training(server: Server, tmp_path: Path) -> Training:
    n_runs = 0

    def run(
        files: str | dict[str, str],
        *options: str,
        program: tuple[str, ...] = (),
        plain: bool = False,
        setup: str | None = None,
    ) -> Run:
        nonlocal n_runs
        n_runs += 1
        place = tmp_path / f"run{n_runs}"
        if isinstance(files, str):
            files = {"train.py": files}
        write(place, files)
        program = program or (next(iter(files)),)
        argv = [*program] if plain else ["-m", "whynan", "run", "--no-prove", *options, *program]
        logs = tmp_path / f"log{n_runs}"
        status = server.run(place, argv, logs, setup)
        saved = place / "whynan-out" / "report.json"
        return Run(
            place,
            status,
            Path(f"{logs}.out").read_text(),
            Path(f"{logs}.err").read_text(),
            json.loads(saved.read_text()) if saved.exists() else None,
        )

    return run


def write(place: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))


# How good diagnoses are over all cases (tests/quality) --------------------------------------------------------------

SHARES = {"is_right_line": 0.90, "is_right_cause": 0.90, "is_right_sample": 0.85, "is_proved": 0.90}
"""What is asserted, a little below what was measured last: single answers may change with a version of PyTorch."""

_answers: list[dict[str, Any]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _answers.extend(value for name, value in report.user_properties if name == "answer")


def _shares() -> dict[str, tuple[int, int]]:
    known = {key: [answer[key] for answer in _answers if answer[key] is not None] for key in SHARES}
    return {key: (sum(values), len(values)) for key, values in known.items()}


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput") or len(_answers) < 20:
        return  # a test process of several, or a selection of cases too small for shares
    if any(right < SHARES[key] * n for key, (right, n) in _shares().items()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for key, (right, n) in _shares().items() if _answers else ():
        terminalreporter.write_line(f"{key}: {right} of {n} cases (at least {SHARES[key]:.0%})")
        wrong = [answer["name"] for answer in _answers if answer[key] is False]
        if wrong:
            terminalreporter.write_line(f"  wrong: {', '.join(sorted(wrong))}")
