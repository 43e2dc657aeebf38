"""TensorBoard, trackers, continuous integration and pipes get what the run has to tell, from the real packages."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from tests.live.conftest import FAILING, HEALTHY
from tests.report.recordings import EVERYTHING, HOSTILE_TEXTS, VARIANTS, hostile

from whynan.live import finish


def test_json_on_standard_output_follows_the_output_of_the_script(watched, tmp_path):
    done = watched(FAILING, "--json", "-", "--no-prove")
    assert done.returncode == 3
    printed, _, report = done.stdout.partition(b"{")
    assert printed == b"".join(b"step %d\n" % step for step in range(5))
    assert json.loads(b"{" + report) == json.loads((tmp_path / "whynan-out" / "report.json").read_text())


def test_json_goes_to_a_file_too(watched, tmp_path):
    watched(HEALTHY, "--json", "there.json")
    assert json.loads((tmp_path / "there.json").read_text())["outcome"] == "healthy"


def test_tensorboard_reads_scalars_and_the_diagnosis(watched, tmp_path):
    script = FAILING.replace("print(", "import time; time.sleep(0.4); print(")
    done = watched(script, "--tensorboard", "board", "--no-prove")
    assert done.returncode == 3, done.stderr.decode()
    code = (
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "board = EventAccumulator('board'); board.Reload()\n"
        "print([event.step for event in board.Scalars('whynan/loss')])\n"
        "print(board.Tensors('whynan/report')[0].tensor_proto.string_val[0].decode())\n"
    )
    read = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    steps, _, text = read.stdout.partition("\n")
    assert len(json.loads(steps)) >= 2
    assert "train.py:7" in text


def test_tensorboard_does_not_bring_tensorflow(watched):
    script = HEALTHY + "assert 'tensorflow' not in sys.modules\nassert 'tensorboard' in sys.modules\n"
    assert watched(script, "--tensorboard", "board").returncode == 0


def test_wandb_gets_scalars_and_the_report(watched, tmp_path):
    script = """\
import torch, wandb
wandb.init(mode="offline", project="p", settings=wandb.Settings(silent=True))
w = torch.zeros(3, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.1)
for step in range(9):
    loss = ((w - 1) ** 2).sum() * torch.sqrt(torch.tensor(3.0 - step))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
    done = watched(script, "--no-prove", WANDB_DIR=str(tmp_path))
    assert done.returncode == 3, done.stderr.decode()
    assert b"wandb failed" not in done.stderr
    (run,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = run.read_bytes()
    assert b"whynan/loss" in content
    assert b"whynan-report-" in content
    assert b"is NaN at step" in content


def test_mlflow_gets_metrics_tag_and_report(watched, tmp_path):
    script = "import mlflow\nmlflow.start_run(run_name='r')\n" + FAILING
    store = f"sqlite:///{tmp_path}/mlflow.db" if _has("sqlalchemy") else (tmp_path / "store").as_uri()
    done = watched(script, "--no-prove", MLFLOW_TRACKING_URI=store, MLFLOW_ALLOW_FILE_STORE="true")
    assert done.returncode == 3, done.stderr.decode()
    assert b"mlflow failed" not in done.stderr
    code = (
        "import mlflow, json\n"
        "client = mlflow.MlflowClient()\n"
        "(run,) = client.search_runs(['0'])\n"
        "print(json.dumps([len(client.get_metric_history(run.info.run_id, 'whynan.loss')), "
        "run.data.tags['whynan.outcome'], sorted(f.path for f in client.list_artifacts(run.info.run_id, 'whynan'))]))"
    )
    import os

    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_FILE_STORE": "true"}
    read = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    n_points, outcome, files = json.loads(read.stdout)
    assert n_points >= 3
    assert "is NaN at step" in outcome
    assert {"whynan/report.html", "whynan/report.json"} <= set(files)


def _has(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_ci_gets_a_junit_file_and_an_annotated_line(watched, tmp_path):
    summary = tmp_path / "summary.md"
    done = watched(FAILING, "--no-prove", CI="true", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 3
    assert b"::error file=train.py,line=7,title=loss is NaN at step" in done.stderr
    assert b"::error" not in done.stdout
    assert summary.read_text().startswith("## loss is NaN at step")
    suite = ElementTree.parse(tmp_path / "whynan-out" / "junit.xml").getroot()
    assert suite.get("failures") == "1"
    assert "train.py:7" in suite.find("testcase/failure").text


def test_ci_of_a_healthy_run_is_one_test_that_passes(watched, tmp_path):
    done = watched(HEALTHY, CI="true", GITHUB_ACTIONS="true")
    assert done.returncode == 0
    suite = ElementTree.parse(tmp_path / "whynan-out" / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    assert b"::error" not in done.stderr


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_junit_and_annotations_hold_any_text(text):
    report = json.loads(json.dumps(hostile(text).to_json()))
    ElementTree.fromstring(finish.junit(report))
    (line,) = finish.annotations(report)
    assert line.startswith("::error ")
    assert "\n" not in line


def test_every_report_has_an_annotation_for_each_incident():
    for recorded in VARIANTS.values():
        assert len(finish.annotations(recorded.to_json())) == len(recorded.incidents)
    assert EVERYTHING.origin.source.line == 58
    assert ",line=58," in finish.annotations(VARIANTS["everything"].to_json())[0]
