"""GitHub's workflow commands: `::error file=...,line=...::message`."""

import os
from collections.abc import Iterator

from whynan.check.result import CheckResult


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
