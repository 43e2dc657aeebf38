"""Jobs as users write them: the line, the rank, the sample, and that nobody waits for a rank that has left."""

from pathlib import Path

import pytest
from tests.ranks import scripts
from tests.ranks.jobs import line_of, start


@pytest.mark.parametrize(
    ("name", "rank"), [("ACCUMULATED", 1), ("UNUSED", 1), ("VALIDATED", 1), ("SHARDED", 0), ("UNEVEN", 0)]
)
def test_the_line_the_rank_and_the_sample_are_found(name: str, rank: int, tmp_path: Path) -> None:
    script = getattr(scripts, name)
    job = start(tmp_path, script, 2, "--no-prove")
    assert job.statuses[rank] == 3 and -9 not in job.statuses, job.stderr
    incident = job.incident
    assert incident["replay"]["reproduced"], incident
    assert (incident["origin"]["file"], incident["origin"]["line"]) == ("train.py", line_of(script))
    assert [sample["index"] for sample in incident["samples"]] == [60 if name == "UNEVEN" else 17]
    assert any(note.startswith(f"rank {rank} of 2 ") for note in incident["notes"]), incident["notes"]


def test_a_remedy_is_proved_in_a_job(tmp_path: Path) -> None:
    job = start(tmp_path, scripts.LOGGED, 2)
    assert job.statuses == [3, 3], job.stderr
    assert job.incident["origin"]["line"] == line_of(scripts.LOGGED)
    proved = {remedy["slug"] for remedy in job.incident["remedies"] if remedy["proved"]}
    assert {"clamp-or-eps", "drop-sample"} <= proved, job.incident["remedies"]


def test_a_remedy_is_proved_on_shards(tmp_path: Path) -> None:
    """One rank's part of the step, with the parameters that all ranks had gathered in step."""
    job = start(tmp_path, scripts.SHARDED, 2)
    assert job.statuses == [3, 3], job.stderr
    proved = {remedy["slug"] for remedy in job.incident["remedies"] if remedy["proved"]}
    assert {"clamp-or-eps", "drop-sample"} <= proved, job.incident["remedies"]
    assert [sample["index"] for sample in job.incident["samples"]] == [17]
    assert any("this rank's part of the step" in note for note in job.incident["notes"]), job.incident["notes"]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_what_takes_several_steps_is_proved_by_all_ranks_in_step(is_sharded: bool, tmp_path: Path) -> None:
    script = scripts.DIVERGING.replace("torch.rand(64", "torch.rand(256")  # it fails within the first epoch
    if is_sharded:
        script = script.replace(
            "from torch import nn", "from torch import nn\nfrom torch.distributed.fsdp import fully_shard"
        )
        script = script.replace("model = DDP(net)", "model = fully_shard(net)").replace(
            "p.detach()", "p.detach().full_tensor()"
        )
    job = start(tmp_path, script, 2)
    assert job.statuses == [3, 3], job.stderr
    proved = {remedy["slug"]: remedy["outcome"] for remedy in job.incident["remedies"] if remedy["proved"]}
    assert "finite over" in proved["lower-learning-rate"], job.incident["remedies"]
    assert "what takes several steps was tried by all ranks in step" in job.incident["notes"]


def test_jax_on_two_hosts(tmp_path: Path) -> None:
    job = start(tmp_path, scripts.JAX, 2)
    assert job.statuses == [3, 3], job.stderr
    incident = job.incident
    assert (incident["origin"]["op"], incident["origin"]["line"]) == ("log", line_of(scripts.JAX))
    assert [sample["index"] for sample in incident["samples"]] == [17]
    assert "process 0 of 2 had it on its devices" in incident["notes"]
    assert any(remedy["proved"] for remedy in incident["remedies"])
    assert (job.stderr.count("because"), job.stderr.count("running it again")) == (1, 1), "one process speaks"


def test_gradients_averaged_by_hand_go_on_together(tmp_path: Path) -> None:
    job = start(tmp_path, scripts.BY_HAND, 2, "--no-prove", "--policy", "recover")
    assert job.statuses == [0, 0], job.stderr
    same = [line for line in job.stdout.splitlines() if line.startswith("same")]
    assert len(same) == 2 and same[0] == same[1] and "nan" not in same[0]
    assert job.incident["origin"]["line"] == line_of(scripts.BY_HAND)


def test_all_ranks_go_back_to_the_same_step(tmp_path: Path) -> None:
    job = start(tmp_path, scripts.DIVERGING, 2, "--no-prove", "--policy", "recover")
    assert job.statuses == [0, 0], job.stderr
    same = [line for line in job.stdout.splitlines() if line.startswith("same")]
    assert len(same) == 2 and same[0] == same[1] and "nan" not in same[0] and "inf" not in same[0]
    assert job.incident["causes"][0]["slug"] == "learning-rate-too-high"
    assert "went back to step 0" in job.incident["action"]["detail"], job.incident["action"]


def test_the_report_is_of_the_rank_that_raised(tmp_path: Path) -> None:
    """The others fail as well, since their peer is gone: that is not what is to be read."""
    job = start(tmp_path, scripts.RAISING, 2)
    assert job.statuses[1] == 1 and job.report["outcome"] == "script-error"
    assert "ValueError: bad file" in job.report["error"]


@pytest.mark.parametrize(
    ("name", "is_healthy"), [("SPAWNED", False), ("SPAWNED", True), ("LIGHTNING", False), ("RAY", False)]
)
def test_processes_that_the_program_starts_itself(name: str, is_healthy: bool, tmp_path: Path) -> None:
    script = getattr(scripts, name)
    if is_healthy:
        script = script.replace("x[17] = 0.0", "")
        job = start(tmp_path, script, 2, is_one=True)
        assert job.statuses == [0] and job.stdout.count("sums") == 1, job.stderr
        assert job.report["outcome"] == "healthy" and job.report["run"]["steps"] == 4
        return
    job = start(tmp_path, script, 2, "--no-prove", is_one=True)
    assert job.statuses == [3], job.stderr
    assert job.incident["origin"]["line"] == line_of(script)
    assert [sample["index"] for sample in job.incident["samples"]] == [17]
