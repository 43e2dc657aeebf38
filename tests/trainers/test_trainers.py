"""Trainers of installed packages: detected, withheld, run again, skipped; a healthy run is not changed."""

import json
from typing import Any

import pytest
from tests.trainers import scripts

SCRIPTS = {
    "lightning": scripts.LIGHTNING,
    "lightning, by hand": scripts.MANUAL,
    "transformers": scripts.TRANSFORMERS,
    "ignite": scripts.IGNITE,
    "mmengine": scripts.MMENGINE,
    "accelerate": scripts.ACCELERATE,
    "fabric": scripts.FABRIC,
}
CLOSURES = ("lightning", "lightning, by hand", "transformers", "ignite", "mmengine")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_line_and_the_sample_are_found(name: str, training: Any) -> None:
    script = SCRIPTS[name]
    run = training(script)
    incident = run.incident
    assert run.status == 3, run.stderr
    assert incident["replay"]["reproduced"], incident["replay"]
    assert incident["replay"]["method"] == ("closure" if name in CLOSURES else "re-yield")
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert incident["origin"]["op"] == "log" and incident["origin"]["phase"] == "forward"
    assert incident["causes"][0]["slug"] == "log-of-zero"
    assert [sample["index"] for sample in incident["samples"]] == [17]


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_run_that_goes_on(name: str, training: Any) -> None:
    script = SCRIPTS[name]
    run = training(script, "--policy", "recover")
    assert run.status == 0, run.stderr
    last = json.loads(run.stdout.splitlines()[-1])
    assert all(abs(value) < 10 for value in last), run.stdout
    assert {incident["origin"]["op"] for incident in run.report["incidents"]} == {"log"}


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_healthy_run_is_not_changed(name: str, training: Any) -> None:
    script = SCRIPTS[name]
    script = script.replace("x[17] = 0.0", "")
    watched, plain = training(script), training(script, plain=True)
    assert watched.report["outcome"] == "healthy", watched.stderr
    assert (watched.status, plain.status) == (0, 0)
    assert _without_times(watched.stdout) == _without_times(plain.stdout)


def _without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if "runtime" not in line]


def test_a_model_of_the_package(training: Any) -> None:
    run = training(scripts.PACKAGE)
    incident = run.incident
    assert run.status == 3
    assert incident["replay"]["method"] == "closure" and incident["replay"]["reproduced"]
    assert "transformers" in incident["origin"]["file"], incident["origin"]
    assert incident["origin"]["module"] is not None


@pytest.mark.parametrize(
    ("script", "module"),
    [(scripts.LIGHTNING, "whynan.lightning"), (scripts.TRANSFORMERS, "whynan.transformers")],
)
def test_the_callback(script: str, module: str, training: Any) -> None:
    fits = ("trainer.fit(", "trainer.train(")
    head, fit = next(script.split(name) for name in fits if name in script)
    name = next(name for name in fits if name in script)
    script = head.replace("callbacks = []", f"import {module}\ncallbacks = [{module}.Watch(prove=False)]")
    script += f"""
from whynan import NonFiniteError
try:
    {name}{fit.splitlines()[0]}
except NonFiniteError as error:
    found = error.report.incidents[0].to_json()
    print("FOUND", found["origin"]["line"], found["samples"][0]["index"])
print(all(bool(p.isfinite().all()) for p in model.parameters()))
"""
    run = training(script, plain=True)
    assert run.status == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == [f"FOUND {run.line()[1]} 17", "True"]
