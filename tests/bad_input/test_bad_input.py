"""Whatever is wrong with a script, a model or the report's place: the script's own behaviour, and a clear message."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.shapes.scripts import HEAD, LOADER
from tests.shapes.test_loops import check

FAILING = (
    HEAD
    + LOADER
    + """
for xb, yb in loader:
    update(loss_of(xb, yb))
"""
)


def test_a_missing_script(training: Any) -> None:
    run = training({"other.py": ""}, program=("train.py",))
    assert run.status == 2
    assert run.report is None
    assert run.stderr.count("\n") == 1 and "train.py" in run.stderr


def test_a_syntax_error(training: Any) -> None:
    run, plain = training("for x in:\n    pass\n"), training("for x in:\n    pass\n", plain=True)
    assert run.status == plain.status == 1
    assert run.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1] == "SyntaxError: invalid syntax"
    assert run.report["outcome"] == "script-error"


def test_os_exit(training: Any) -> None:
    run = training(HEAD + "print('x', flush=True)\nos._exit(4)\n")
    assert (run.status, run.stdout) == (4, "x\n")
    assert run.report["outcome"] == "healthy"


FORK = """
os.register_at_fork(after_in_child=lambda: print("child", flush=True))
pid = os.fork()
if pid == 0:
    torch.manual_seed(1)
    for xb, yb in {}:
        try:
            update(loss_of(xb, yb))
        except RuntimeError as error:
            print(error)
    print("child ends", flush=True)
    {}
os.waitpid(pid, 0)
for xb, yb in loader:
    update(loss_of(xb, yb))
"""


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "raise SystemExit"])
def test_a_fork_is_not_the_run(end: str, training: Any) -> None:
    run = training(HEAD + LOADER + FORK.format("loader", end))
    check(run)
    assert run.stdout == "child\nchild ends\n"
    assert run.stderr.count("replaying step") == 1


def test_streams_that_are_replaced_or_closed(training: Any) -> None:
    for change in ("sys.stdout = open('out.txt', 'w')", "sys.stdout.close()", "sys.stderr = None", "sys.stdout = None"):
        check(training(FAILING.replace("for xb", change + "\nfor xb", 1)))


def test_memory_runs_out(training: Any) -> None:
    run = training(
        FAILING.replace(
            "for xb",
            """
import resource
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
hoard = torch.empty(1 << 40)
for xb""",
            1,
        )
    )
    assert run.status == 1
    assert run.report["outcome"] == "script-error"
    assert "RuntimeError" in run.stderr and "whynan" not in run.stderr


def test_a_place_that_is_not_there(training: Any) -> None:
    run = training(FAILING, "--out", "not/there/yet")
    assert run.status == 3
    assert json.loads((run.place / "not/there/yet/report.json").read_text())["outcome"] == "non-finite"


def test_a_file_in_place_of_the_folder(training: Any) -> None:
    run = training({"train.py": FAILING, "taken": ""}, "--out", "taken")
    assert run.status == 3
    assert (run.place / "taken").read_text() == ""
    assert "log-of-zero" in run.stderr and "taken" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_full_disk(training: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        run = training(FAILING, "--out", str(disk))
        assert run.status == 3
        assert [path.name for path in disk.iterdir() if path.name != "history.npz"] == []
        assert "log-of-zero" in run.stderr and "No space left" in run.stderr
        assert "Traceback" not in run.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_model_that_is_nan_from_the_start(training: Any) -> None:
    run = training(FAILING.replace("for xb", "with torch.no_grad():\n    model.weight[0, 1] = math.nan\nfor xb", 1))
    incident = run.incident
    assert incident["step"] == 0
    assert "weight" in json.dumps([incident["origin"], incident["causes"]])
    assert "before the first step" in json.dumps(incident)


def test_a_parameter_that_was_never_initialised(training: Any) -> None:
    run = training(
        FAILING.replace(
            "for xb",
            """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(3))  # BAD-HERE
        with torch.no_grad():
            self.scale.fill_(math.nan)

    def forward(self, v):
        return v * self.scale

model = nn.Sequential(Gate(), model)
for xb""",
            1,
        )
    )
    incident = run.incident
    assert incident["step"] == 0
    assert "0.scale" in json.dumps(incident)


def test_an_iteration_longer_than_the_budget(training: Any) -> None:
    slow = FAILING.replace("    update(", "    import time; time.sleep(0.3)\n    update(")
    run = training(slow, "--budget", "0.2")
    assert run.status == 3
    assert not run.incident["replay"]["reproduced"]
    assert "--budget 0.2" in run.incident["replay"]["why"]


BROKEN = {
    "tracer": "import whynan.adapters.torch.trace as m; m.Tracer.__init__ = broken",
    "snapshot": "import whynan.adapters.torch.snapshot as m; m.Snapshot.__init__ = broken",
    "slice": "import whynan.adapters.torch.explain as m; m.find_origin = broken",
    "incident": "import whynan.adapters.torch.explain as m; m.incident = broken",
    "diagnosis": "import whynan.adapters.torch.explain as m; m.diagnose = broken",
    "page": "import whynan.report.html as m; m.render = broken",
    "terminal": "import whynan.report.terminal as m; m.render = broken",
    "watch": "import whynan.adapters.torch.watch as m; m.Watch._look_at_roots = broken",
    "hosts": "import whynan.adapters.torch.host as m; m.TorchHost.run_again = m.TorchHost.leave = broken",
    "attach": "import whynan.adapters.torch.adapter as m; m.TorchAdapter.__init__ = broken",
}


@pytest.mark.parametrize("part", BROKEN)
def test_whynans_own_failures(part: str, training: Any) -> None:
    breaking = "def broken(*args, **kwargs):\n    raise RuntimeError('broken by the test')\n" + BROKEN[part] + "\n"
    healthy = (
        HEAD
        + LOADER
        + """
for xb, yb in loader:
    update(((model(xb).squeeze(1) - yb) ** 2).mean())
print("done")
"""
    )
    for script, statuses in ((healthy, {0}), (FAILING + "print('done')\n", {0, 3})):
        run = training({"train.py": script, "breaking.py": breaking}, setup="breaking.py")
        assert run.status in statuses, run.stderr
        assert run.status == 3 or run.stdout == "done\n"
        assert "Traceback" not in run.stderr


def test_an_interrupt_during_the_replay(tmp_path: Path) -> None:
    slow = FAILING.replace("    update(", "    import time; time.sleep(1.0 if loader.slow else 0)\n    update(")
    slow = slow.replace("for xb", "class L(list): slow = False\nloader = L(loader)\nseen = 0\nfor xb", 1)
    slow = slow.replace("    import time;", "    seen += 1\n    loader.slow = seen == 5\n    import time;")
    (tmp_path / "train.py").write_text(textwrap.dedent(slow))
    process = subprocess.Popen(
        [sys.executable, "-m", "whynan", "run", "train.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "replaying" in line:
            process.send_signal(signal.SIGINT)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr
    report = json.loads((tmp_path / "whynan-out/report.json").read_text())
    assert report["incidents"][0]["replay"]["why"] == "it was interrupted"
    assert not list((tmp_path / "whynan-out").glob("*.tmp"))


LOOPLESS = """
import random
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
row, column = random.randrange(5, 30), np.random.randint(0, 3)
x = torch.rand(40, 3) + 0.1
x[row, column] = -50.0
print(row)
model = nn.Linear(3, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.01)
xb = x[row - 2 : row + 2]
loss = (model(xb).squeeze(1) * torch.log(xb.sum(1))).mean()  # BAD
opt.zero_grad()
loss.backward()
opt.step()
print("after")
"""


def test_a_second_run_has_the_streams_of_the_first(training: Any) -> None:
    run = training(LOOPLESS, "--rerun")
    incident = run.incident
    assert run.status == 3
    assert incident["replay"] == {"reproduced": True, "method": "rerun", "why": None, "not_restored": []}
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert run.stdout == f"{incident['samples'][0]['index']}\n"
    assert sorted(path.name for path in run.place.iterdir()) == ["train.py", "whynan-out"]
