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
ULTRALYTICS = scripts.ULTRALYTICS.replace("CALLBACK", "")
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
    [
        (scripts.LIGHTNING, "whynan.lightning"),
        (scripts.TRANSFORMERS, "whynan.transformers"),
        (scripts.MMENGINE, "whynan.mmengine"),
        (scripts.IGNITE, "whynan.ignite"),
    ],
)
def test_the_callback(script: str, module: str, training: Any) -> None:
    fits = ("trainer.fit(", "trainer.train(", "runner.train(", "engine.run(")
    head, fit = next(script.split(name) for name in fits if name in script)
    name = next(name for name in fits if name in script)
    head = head.replace("callbacks = []", f"import {module}\ncallbacks = [{module}.Watch(prove=False)]")
    head = head.replace("work_dir=", f"custom_hooks=[{module}.Watch(prove=False)], work_dir=")
    script = f"import {module}\n{head}"
    if module == "whynan.ignite":
        script += "whynan.ignite.Watch(prove=False).attach(engine)"
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


def test_ultralytics(training: Any) -> None:
    run = training(ULTRALYTICS.replace("FAILS", "True"))
    incident = run.incident
    assert run.status == 3 and "done" not in run.stdout, run.stderr
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert incident["replay"]["reproduced"] and incident["causes"][0]["slug"] == "constant-input"
    assert [sample["index"] for sample in incident["samples"]] == [7]
    frames = [frame.split("%")[0] for frame in run.stdout.split("\r") if " 64: " in frame]
    assert 0 < len(frames) <= 4, "the bar of a replay is not seen"


def test_ultralytics_reloads_its_checkpoint_and_goes_on(training: Any) -> None:
    run = training(ULTRALYTICS.replace("FAILS", "self.epoch == 1 and self.passes < 6"), "--policy", "observe")
    assert "(attempt 1/3), recovering from last.pt" in run.stdout + run.stderr, run.stdout
    assert (run.status, run.stdout.splitlines()[-1]) == (0, "done True"), run.stderr
    assert run.incident["origin"]["line"] == run.line()[1]


def test_ultralytics_with_the_callback(training: Any) -> None:
    script = scripts.ULTRALYTICS.replace("FAILS", "True")
    watch = "import whynan.ultralytics\nwatch = whynan.ultralytics.Watch(policy='recover', prove=False)"
    script = script.replace("CALLBACK", f"{watch}\nwatch.attach(model)")
    run = training(script + "\nprint(watch.report.samples[0].index, watch.report.origin.source.line)", plain=True)
    assert run.status == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == ["done True", f"7 {run.line()[1]}"]
