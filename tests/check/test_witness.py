"""Witnesses: saved, run again in the script and in the mended one; what a script handles; what only a batch of its kind
would do."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whynan.adapters.torch.check.search import TorchSearch

spec = importlib.util.spec_from_file_location("check_steps_of_witness", Path(__file__).with_name("steps.py"))
assert spec is not None and spec.loader is not None
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)

SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
pairs = TensorDataset(torch.rand(48, 2, 6))
net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Dropout(0.1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for (pair,) in DataLoader(pairs, batch_size=8):
    u, v = net(pair[:, 0]), net(pair[:, 1])
    loss = (u - v).pow(2).sum(dim=1).sqrt().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
MENDED = SCRIPT.replace(".sum(dim=1).sqrt()", ".sum(dim=1).add(1e-8).sqrt()")


def whynan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whynan", "check", "--quiet", "--no-github", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, env={**os.environ, "COLUMNS": "160"}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("saved")
    (folder / "train.py").write_text(SCRIPT)
    (folder / "mended.py").write_text(MENDED)
    return folder, whynan(folder, "--save", "found", "train.py")


def test_a_witness_is_saved_without_pickle(saved: tuple[Path, Any]) -> None:
    folder, done = saved
    assert done.returncode == 1, done.stdout + done.stderr
    (place,) = (folder / "found").iterdir()
    assert f"whynan check --replay found/{place.name} train.py" in done.stdout
    assert sorted(path.name for path in place.iterdir()) == ["values.safetensors", "witness.json"]
    about = json.loads((place / "witness.json").read_text())
    assert about["schema"] == "whynan.witness/1"
    assert (about["suspect"]["cause"], about["suspect"]["line"]) == ("sqrt-at-zero", 11)
    from safetensors.torch import load_file

    values = load_file(place / "values.safetensors")
    assert set(values) == set(about["leaves"])
    assert all(list(values[name].shape) == leaf["shape"] for name, leaf in about["leaves"].items())


def test_the_step_fails_on_it_again_and_the_mended_one_does_not(saved: tuple[Path, Any]) -> None:
    folder, _ = saved
    (place,) = (folder / "found").iterdir()
    done = whynan(folder, "--replay", str(place), "train.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the step fails: non-finite is the gradient of 0.weight" in done.stdout
    assert "the derivative of sqrt in <module>, line 11 is non-finite" in done.stdout
    done = whynan(folder, "--replay", str(place), "mended.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the step stays finite" in done.stdout


def test_a_folder_without_a_witness_is_said(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = saved
    done = whynan(folder, "--replay", "found", "train.py")
    assert done.returncode == 2 and "name one of them" in done.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "witness.json").write_text("{")
    done = whynan(folder, "--replay", str(broken), "train.py")
    assert done.returncode == 2 and "holds no witness that can be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_witness_of_another_script_is_said(saved: tuple[Path, Any]) -> None:
    folder, _ = saved
    (place,) = (folder / "found").iterdir()
    other = SCRIPT.replace("torch.rand(48, 2, 6)", "torch.rand(48, 2, 6).double()").replace("0.1))", "0.1)).double()")
    (folder / "other.py").write_text(other)
    done = whynan(folder, "--replay", str(place), "other.py")
    assert done.returncode == 2 and "this run's step has no batch 8x2x6 float32" in done.stderr


# What is ranked behind the rest --------------------------------------------------------------------------------------


def skipping() -> Any:
    x = steps.data(6, 4, lo=0.0)
    for weight in (steps.weight(4, 3),):
        loss = torch.log(x @ weight.abs()).mean()
        if not torch.isfinite(loss):
            continue
    return loss * 1.0


def raising() -> Any:
    loss = torch.log(steps.data(6, 4, lo=0.0) @ steps.weight(4, 3).abs()).mean()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {float(loss)}")
    return loss * 1.0


def test_a_step_that_the_script_leaves_out_is_handled() -> None:
    (suspect,) = [s for s in steps.suspects_of(skipping) if s.cause == "log-of-zero"]
    assert suspect.handled is not None and "isfinite" in suspect.handled.code


def test_what_is_handled_is_a_note_and_no_error() -> None:
    from dataclasses import replace

    from whynan.check.show import annotations, sarif
    from whynan.check.suspects import CheckResult
    from whynan.check.witness import Witness

    (suspect,) = [s for s in steps.suspects_of(skipping) if s.cause == "log-of-zero"]
    result = CheckResult("train.py", suspects=[replace(suspect, witness=Witness("found", "data all zero"))])
    assert not result.has_errors
    assert next(iter(annotations(result))).startswith("::notice ")
    assert sarif(result)["runs"][0]["results"][0]["level"] == "note"
    assert CheckResult("train.py", suspects=[replace(result.suspects[0], handled=None)]).has_errors


def test_a_question_that_ends_the_run_handles_nothing() -> None:
    (suspect,) = [s for s in steps.suspects_of(raising) if s.cause == "log-of-zero"]
    assert suspect.handled is None


def searched(target: Any, n: int) -> str:
    """Look for a batch whose targets are all ignored; returns the outcome."""
    pictures = steps.data(n, 4)

    def step() -> Any:
        return F.cross_entropy((pictures @ steps.weight(4, 3))[:, :, None].expand(-1, -1, 40), target)

    context, program = steps.recorded(step)
    (suspect,) = steps.find_suspects(context)
    assert suspect.cause == "empty-reduction"
    return str(TorchSearch(context, program).find(suspect.hazard, suspect.phase, 4.0).outcome)


def test_a_batch_of_ignored_pixels_alone_is_remote_where_each_sample_has_many_others() -> None:
    target = torch.arange(8 * 40).reshape(8, 40) % 3
    target[:, ::10] = -100
    assert searched(target, 8) == "remote"


def test_it_is_a_witness_where_one_sample_comes_near() -> None:
    target = torch.arange(8 * 40).reshape(8, 40) % 3
    target[3, 1:] = -100
    assert searched(target, 8) == "found"


def test_it_is_a_witness_where_a_batch_is_one_sample() -> None:
    target = torch.arange(40).reshape(1, 40) % 3
    target[:, ::10] = -100
    assert searched(target, 1) == "found"
