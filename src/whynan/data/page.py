"""A result as one page: self-contained, without a script; pictures of what is wrong, distributions as plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from whynan.data import plots
from whynan.data.catalogue import all_checks
from whynan.data.finding import SEVERITIES, Finding, Severity
from whynan.data.result import Result, write_whole
from whynan.data.storage import Storage, locate
from whynan.data.terminal import closing, headline, lines
from whynan.data.thumbnails import picture
from whynan.report.words import clean

PICTURES = 12
"""Pictures of each kind of finding."""
ROWS = 200
"""Findings of each kind in the table; the JSON has all."""


@dataclass(frozen=True)
class Row:
    """A finding as the page shows it."""

    place: str
    value: str
    message: str
    picture: str | None


@dataclass(frozen=True)
class Section:
    """All findings of one check and severity."""

    severity: Severity
    slug: str
    title: str
    why: str
    cause: str | None
    n: int
    rows: tuple[Row, ...]
    n_hidden: int


def save_page(result: Result, place: Path) -> None:
    """Write the page. Raises OutputError."""
    write_whole(place, render(result))


def render(result: Result) -> str:
    """Return the page of a result."""
    storage, _ = locate(result.path)
    return _template().render(
        title=clean(result.path),
        headline=clean(headline(result)),
        lines=[(name, clean(text)) for name, text in lines(result)],
        closing=clean(closing(result, is_all=True)).strip(),
        is_clean=result.is_clean,
        counts=[(severity, result.found.count(severity)) for severity in SEVERITIES],
        sections=list(_sections(result, storage)),
        plots=list(plots.plots(result)),
        width=plots.WIDTH,
    )


def _sections(result: Result, storage: Storage) -> Sequence[Section]:
    checks = all_checks()
    made = []
    for severity, slug, n, found in result.found.groups():
        check = checks[slug]
        rows = tuple(_row(result, storage, finding, k) for k, finding in enumerate(found[:ROWS]))
        made.append(Section(severity, slug, check.title, check.why, check.cause, n, rows, n - len(rows)))
    return made


def _row(result: Result, storage: Storage, finding: Finding, place: int) -> Row:
    where = finding.file if finding.annotation is None else f"{finding.file} #{finding.annotation}"
    shown = picture(storage, finding, _known(result, finding)) if place < PICTURES else None
    return Row(clean(where), clean(finding.value), clean(finding.message), shown)


def _known(result: Result, finding: Finding) -> list[int] | None:
    """Return the values that a mask may hold, so that all others are drawn in red."""
    if finding.check != "mask-value-out-of-range":
        return None
    for part in result.parts:
        if part.format == "masks" and part.declared and (part.file == "." or finding.file.startswith(f"{part.file}/")):
            ignored = [] if part.ignore_index is None else [part.ignore_index]
            return [*part.declared, *ignored]
    return None


@cache
def _template() -> Template:
    text = (resources.files("whynan.data") / "templates" / "data.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)
