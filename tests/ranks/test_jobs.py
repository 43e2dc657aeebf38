"""Jobs of several processes over gloo: one verdict, one report, the rank and the sample that began it; nobody hangs."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.ranks.jobs import Job, line_of, start

SCRIPT = """
import os, signal
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

dist.init_process_group("gloo")
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.rand(64, 3) + 0.1
y = torch.rand(64)
x[17] = 0.0
model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)))
opt = torch.optim.Adam(model.parameters(), lr=0.01)
data = TensorDataset(x, y)
sampler = DistributedSampler(data, shuffle=True, seed=4)
loader = DataLoader(data, batch_size=4, sampler=sampler)
n_visits = 0
for epoch in range(2):
    sampler.set_epoch(epoch)
    for xb, yb in loader:
        weight = torch.log(xb.sum(1))  # BAD
        n_visits += int((xb.sum(1) == 0).any())
        # KILL
        loss = ((model(xb).squeeze(1) - yb) ** 2 * weight).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        shown = loss.detach().clone()
        dist.all_reduce(shown)
    if dist.get_rank() == 0:
        print("epoch", epoch, float(shown))
if dist.get_rank() == 0:
    print("sums", [float(p.detach().double().sum()) for p in model.parameters()])
dist.barrier()
"""
# The replay is this process's second visit to the sample: the first one's count has been put back, a file's has not.
KILL = """if (xb.sum(1) == 0).any():
            if os.path.exists("visited"):
                os.kill(os.getpid(), signal.SIGKILL)
            os.close(os.open("visited", os.O_CREAT))"""


def _job(place: Path, script: str, size: int, *options: str, watched: bool = True) -> Job:
    return start(place, script, size, "--no-prove", *options, watched=watched)


@pytest.mark.parametrize(("size", "rank"), [(4, 2)])
def test_all_ranks_stop_in_the_step_and_the_guilty_one_is_named(size: int, rank: int, tmp_path: Path) -> None:
    job = _job(tmp_path, SCRIPT, size)
    assert job.statuses == [3] * size, job.stderr
    (incident,) = job.report["incidents"]
    assert (incident["origin"]["file"], incident["origin"]["line"]) == ("train.py", line_of(SCRIPT))
    assert [sample["index"] for sample in incident["samples"]] == [17]
    assert any(note.startswith(f"rank {rank} of {size} ") for note in incident["notes"]), incident["notes"]
    assert job.stderr.count("because") == 1, "one report for all"
    assert sorted(path.name for path in (tmp_path / "whynan-out").iterdir()) == [
        "history.npz",
        "report.html",
        "report.json",
    ]


def test_all_ranks_go_on_together(tmp_path: Path) -> None:
    script = SCRIPT.replace("dist.barrier()", 'print("same", [float(p.detach().sum()) for p in model.parameters()])')
    job = _job(tmp_path, script, 2, "--policy", "recover")
    assert job.statuses == [0, 0], job.stderr
    same = [line for line in job.stdout.splitlines() if line.startswith("same")]
    assert len(same) == 2 and same[0] == same[1]
    assert "nan" not in job.stdout
    assert len(job.report["incidents"]) == 2


def test_a_healthy_job_is_not_changed(tmp_path: Path) -> None:
    script = SCRIPT.replace("x[17] = 0.0", "")
    watched = _job(tmp_path / "watched", script, 2)
    plain = _job(tmp_path / "plain", script, 2, watched=False)
    assert watched.report["outcome"] == "healthy", watched.stderr
    assert watched.statuses[0] == 0 and watched.stdout == plain.stdout


def test_a_rank_killed_in_its_replay(tmp_path: Path) -> None:
    """The others end within their time, with a report that says who is missing and blames no machine."""
    job = _job(tmp_path, SCRIPT.replace("# KILL", KILL).replace("seed=4", "seed=5"), 2, "--budget", "2")
    assert job.statuses[1] == -9 and job.statuses[0] == 3, job.stderr
    (incident,) = job.report["incidents"]
    assert not incident["replay"]["reproduced"]
    assert "rank 1 did not answer" in str(incident["notes"]) + str(incident["replay"]["why"])
    assert "non-reproducible" not in [cause["slug"] for cause in incident["causes"]]


def test_who_waits_in_step_for_a_rank_that_hangs_ends() -> None:
    script = "import time\nfrom whynan.adapters.torch.ranks.alone import Patience\nPatience(0.2)\ntime.sleep(60)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 3 and "another rank has not answered" in done.stderr


def test_a_value_that_all_ranks_made_together(tmp_path: Path) -> None:
    """Finite on each rank alone: only the step of all ranks in step shows it."""
    script = SCRIPT.replace("x[17] = 0.0", "x[17] = -100.0").replace(
        "weight = torch.log(xb.sum(1))  # BAD",
        "total = (xb.sum() < 0).float() * 2 - 1\n        dist.all_reduce(total)\n"
        "        weight = total.abs().log()  # BAD",
    )
    job = _job(tmp_path, script, 2)
    assert job.statuses == [3, 3], job.stderr
    (incident,) = job.report["incidents"]
    assert incident["replay"]["reproduced"], incident
    assert incident["origin"]["line"] == line_of(script) and incident["origin"]["op"] == "log"
    assert any("with all ranks in step" in note for note in incident["notes"]), incident["notes"]
