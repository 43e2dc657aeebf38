"""Continuous integration: annotations and a summary for GitHub Actions, a JUnit file for everybody."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from whynan.report import markdown, model
from whynan.report.output import write_safely
from whynan.report.save import write_whole

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
    properties = ",".join(f"{key}={_property(value)}" for key, value in place.items() if value is not None)
    said = [answer.text for answer in incident.answers if answer.question in ("Where", "Why", "What fixes it")]
    return f"::error {properties}::{_message('; '.join(said))}"


def _message(text: object) -> str:
    return str(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: object) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


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
