"""When a run has ended: its report to a file or a pipe, to trackers, to continuous integration.

Nothing is imported that the script has not imported, and no run of a tracker is begun.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from whynan.launch import RunOptions
from whynan.launch.host import tell
from whynan.live import TensorBoard
from whynan.records import Recording
from whynan.report import markdown, model, write_safely
from whynan.report.model import add_contexts
from whynan.report.saved import to_json_text, write_whole

JUNIT = "junit.xml"


def is_ci(environment: Mapping[str, str]) -> bool:
    """Return whether this is a run of continuous integration, as its systems say in their environment."""
    return environment.get("CI", "").lower() in ("true", "1", "yes")


def report_to_ci(report: Mapping[str, Any], out: Path, roots: Sequence[Path], file: IO[str] | None) -> None:
    """Write `junit.xml` into the report's folder; in GitHub Actions annotate the line and add to the job's summary.

    Raises OSError where a file cannot be written.
    """
    write_whole(out / JUNIT, junit(report, roots))
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    if file is not None and report["incidents"]:
        write_safely("".join(f"{line}\n" for line in annotations(report, roots)), file)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and report["incidents"]:
        with open(summary, "a", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(markdown.render(report, roots) + "\n")


def annotations(report: Mapping[str, Any], roots: Sequence[Path] = ()) -> list[str]:
    """Return a workflow command for each incident, on the line of its origin."""
    page = model.build(report, roots)
    return [_annotation(*pair) for pair in zip(report["incidents"], page.incidents)]


def _annotation(item: Mapping[str, Any], incident: model.Incident) -> str:
    origin = item["origin"] or {}
    place = {"file": origin.get("file"), "line": origin.get("line"), "title": incident.headline}
    properties = ",".join(f"{key}={escaped_property(value)}" for key, value in place.items() if value is not None)
    said = [answer.text for answer in incident.answers if answer.question in ("Where", "Why", "What fixes it")]
    return f"::error {properties}::{escaped('; '.join(said))}"


def escaped(text: object) -> str:
    return str(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escaped_property(text: object) -> str:
    return escaped(text).replace(":", "%3A").replace(",", "%2C")


def junit(report: Mapping[str, Any], roots: Sequence[Path] = ()) -> bytes:
    """Return the report as JUnit XML: one test for the run, which fails with each incident's text."""
    page = model.build(report, roots)
    run = report["run"]
    name = " ".join(run["argv"]) or "run"
    seconds = f"{run['seconds']:.3f}"
    n = str(len(page.incidents))
    suite = ElementTree.Element(
        "testsuite", name="whynan", tests=str(max(1, len(page.incidents))), failures=n, errors="0", time=seconds
    )
    for incident in page.incidents:
        case = ElementTree.SubElement(suite, "testcase", classname="whynan", name=_xml(f"{name}: {incident.headline}"))
        text = "\n".join(f"{answer.question}: {answer.text}" for answer in incident.answers)
        failure = ElementTree.SubElement(case, "failure", message=_xml(incident.headline))
        failure.text = _xml(text)
    if not page.incidents:
        ElementTree.SubElement(suite, "testcase", classname="whynan", name=_xml(name), time=seconds)
    written: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return written


def _xml(text: str) -> str:
    """Return text without the characters that XML 1.0 cannot hold."""
    return "".join(
        char if char in "\t\n" or " " <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char > "\uffff" else "?"
        for char in text
    )


_MOST_POINTS = 1000
_FILES = ("report.json", "report.html", "history.npz")


def tell_trackers(history: Mapping[str, Sequence[float]], headline: str | None, out: Path) -> None:
    """Hand the history and the report's files to the trackers that are in use. A failure is told, never raised."""
    for name, log in (("wandb", _to_wandb), ("mlflow", _to_mlflow)):
        module = sys.modules.get(name)
        if module is None:
            continue
        try:
            log(module, _points(history), headline, [out / file for file in _FILES if (out / file).exists()])
        except Exception as error:
            tell(f"handing the report to {name} failed", error)


def _points(history: Mapping[str, Sequence[float]]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each series, the last of them; steps are counted backwards from the end."""
    n = max((len(values) for values in history.values()), default=0)
    found = {}
    for name, values in history.items():
        rows = [(n - len(values) + k, float(value)) for k, value in enumerate(values)]
        found[name] = [row for row in rows if math.isfinite(row[1])][-_MOST_POINTS:]
    return found


def _to_wandb(wandb: Any, points: dict[str, list[tuple[int, float]]], headline: str | None, files: list[Path]) -> None:
    run = getattr(wandb, "run", None)
    if run is None:
        return
    run.define_metric("whynan/step")
    run.define_metric("whynan/*", step_metric="whynan/step")
    rows: dict[int, dict[str, float]] = {}
    for name, series in points.items():
        for step, value in series:
            rows.setdefault(step, {})[f"whynan/{name}"] = value
    for step in sorted(rows):
        run.log({"whynan/step": step, **rows[step]})
    run.summary["whynan/outcome"] = headline or "healthy"
    artifact = wandb.Artifact(f"whynan-report-{run.id}", type="whynan-report", description=headline)
    for file in files:
        artifact.add_file(str(file))
    run.log_artifact(artifact)


def _to_mlflow(
    mlflow: Any, points: dict[str, list[tuple[int, float]]], headline: str | None, files: list[Path]
) -> None:
    run = mlflow.active_run() or mlflow.last_active_run()
    if run is None:
        return
    import time

    client, run_id, now = mlflow.MlflowClient(), run.info.run_id, int(time.time() * 1000)
    metrics = [
        mlflow.entities.Metric(f"whynan.{name}", value, now, step)
        for name, series in points.items()
        for step, value in series
    ]
    for start in range(0, len(metrics), 500):
        client.log_batch(run_id, metrics=metrics[start : start + 500])
    client.set_tag(run_id, "whynan.outcome", headline or "healthy")
    for file in files:
        client.log_artifact(run_id, str(file), "whynan")


def hand_on(recording: Recording, options: RunOptions, roots: Sequence[Path]) -> None:
    """Give a saved recording to everybody who is to have it; each failure is told and stops none of the others."""
    report: dict[str, Any] = json.loads(to_json_text(recording.to_json()))
    add_contexts(report, roots)
    headline = model.build(report, roots).headline if report["incidents"] else None
    _try("writing the report as JSON", lambda: _as_json(report, options.json_file))
    _try("writing for TensorBoard", lambda: _to_board(report, options.tensorboard, roots))
    _try("handing the report to trackers", lambda: _to_trackers(recording, headline, options.out))
    _try("reporting to continuous integration", lambda: _to_ci(report, options.out, roots))


def _try(what: str, do: Callable[[], None]) -> None:
    try:
        do()
    except Exception as error:
        tell(f"{what} failed", error)


def _as_json(report: dict[str, Any], target: str | None) -> None:
    if target is None:
        return
    if target != "-":
        Path(target).write_text(to_json_text(report), "ascii")
    elif sys.__stdout__ is not None:
        if sys.stdout is not None:
            sys.stdout.flush()  # what the script has printed comes first
        write_safely(to_json_text(report), sys.__stdout__)


def _to_board(report: dict[str, Any], folder: Path | None, roots: Sequence[Path]) -> None:
    if folder is None or not report["incidents"]:
        return
    board = TensorBoard(folder)
    board.tell(markdown.render(report, roots), report["incidents"][0]["step"])
    board.close()


def _to_trackers(recording: Recording, headline: str | None, out: Path) -> None:
    tell_trackers(recording.history, headline, out)


def _to_ci(report: dict[str, Any], out: Path, roots: Sequence[Path]) -> None:
    if is_ci(os.environ):
        report_to_ci(report, out, roots, sys.__stderr__)
