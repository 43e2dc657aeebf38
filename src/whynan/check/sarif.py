"""What code scanners take: SARIF 2.1.0, and the workflow commands of GitHub, `::error file=...,line=...::message`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import whynan
from whynan.check.result import CheckResult
from whynan.diagnosis.catalogue import all_causes, page_of

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(result: CheckResult) -> dict[str, Any]:
    """Return a log with one run: a rule for each cause and check, a result for each suspect and finding.

    What a comment accepts is there too, as suppressed in the source.
    """
    results: list[dict[str, Any]] = []
    for suspect in result.suspects:
        level = "error" if suspect.is_certain else "note" if suspect.handled is not None else "warning"
        text = f"{suspect.op}: {suspect.why}"
        if suspect.witness is not None and suspect.witness.found:
            text += f". It fails: {suspect.witness.how}, {suspect.witness.effect} is non-finite"
        results.append(
            _result(
                suspect.cause, level, text, suspect.place.file, suspect.place.line, suspect.accepted, suspect.place.code
            )
        )
    results += [_result(f.check, f.severity, f.message, f.file, f.line, f.accepted, None) for f in result.review]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "whynan",
                        "version": whynan.__version__,
                        "semanticVersion": whynan.__version__,
                        "informationUri": "https://whynan.readthedocs.io",
                        "rules": _rules(sorted({r["ruleId"] for r in results})),
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {
                        "executionSuccessful": result.problem is None,
                        **({"exitCodeDescription": result.problem} if result.problem else {}),
                    }
                ],
                "results": results,
            }
        ],
    }


def _rules(slugs: list[str]) -> list[dict[str, Any]]:
    causes = {cause.slug: cause for cause in all_causes()}
    found = []
    for slug in slugs:
        cause = causes.get(slug)
        text = page_of(cause).text.splitlines()[0] if cause is not None else slug.replace("-", " ")
        found.append({"id": slug, "shortDescription": {"text": text}, "help": {"text": f"whynan explain {slug}"}})
    return found


def _result(
    rule: str, level: str, text: str, file: str | None, line: int | None, accepted: str | None, code: str | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"ruleId": rule, "level": level, "message": {"text": text}}
    if file and line:
        region: dict[str, Any] = {"startLine": line}
        if code:
            region["snippet"] = {"text": code}
        found["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": _uri(file)}, "region": region}}]
    if accepted is not None:
        found["suppressions"] = [{"kind": "inSource", "justification": accepted}]
    return found


def _uri(file: str) -> str:
    short = os.path.relpath(file)
    return Path(short).as_posix() if not short.startswith("..") else Path(file).absolute().as_uri()


def annotations(result: CheckResult) -> Iterator[str]:
    """Yield one command for each suspect and finding that stands."""
    for suspect in result.standing:
        level = "error" if suspect.is_certain else "notice" if suspect.handled is not None else "warning"
        text = f"{suspect.why}" + (
            f" (fails: {suspect.witness.how})" if suspect.witness and suspect.witness.found else ""
        )
        yield command(level, suspect.place.file, suspect.place.line, suspect.cause, text)
    for finding in result.review:
        if finding.accepted is None:
            level = {"error": "error", "warning": "warning", "note": "notice"}[finding.severity]
            yield command(level, finding.file, finding.line, finding.check, finding.message)


def command(level: str, file: str | None, line: int | None, title: str, message: str) -> str:
    """Return one workflow command; its special characters are escaped as GitHub's toolkit escapes them."""
    place = f"file={_property(os.path.relpath(file))},line={line}," if file and line else ""
    return f"::{level} {place}title={_property('whynan ' + title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
