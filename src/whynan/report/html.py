"""A report as one page: self-contained, with one script of its own (the copy button); everything in it is escaped."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from whynan.report import chart, drawings, model
from whynan.report.words import clean, number

_ORDER = ("loss", "grad_norm", "lr", "scale")
_USUAL = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate"}
_MAPS = (
    ("grad_norm", "gradient norm by layer"),
    ("update_ratio", "size of the update against the weights, by layer"),
    ("activation", "largest activation by layer"),
)
_MOST_FINDINGS = 20
_MOST_MAPPED = 5
"""Incidents with heat maps: those of one may take 200 kB of the page."""


@dataclass(frozen=True)
class Drawings:
    path: drawings.Route | None
    pictures: tuple[drawings.Shown, ...]
    terms: chart.Lines | None
    maps: tuple[drawings.HeatMap, ...]
    note: str
    left_out: str


def render(
    report: Mapping[str, Any],
    history: Mapping[str, Sequence[float]] | None = None,
    roots: Sequence[Path] = (),
    files: Mapping[str, bytes] | None = None,
    data: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a report, with its history as charts.

    `roots` are where source files are looked for, `files` the pictures beside the report by name, `data` what
    `whynan data` found out about the data set.
    """
    page = model.build(report, roots)
    headlines = [incident.headline for incident in page.incidents]
    return _template().render(
        page=page,
        drawings=[
            _drawings(item, incident, files or {}, number < _MOST_MAPPED)
            for number, (item, incident) in enumerate(zip(report["incidents"], page.incidents))
        ],
        charts=_charts(history or {}, report),
        missing=_missing(history or {}, report),
        timeline=chart.draw_timeline(report["incidents"], headlines, report["run"]["steps"]),
        scale=drawings.colours(),
        data=_data(data) if data else None,
        script=_script(),
        script_hash=_hash(_script()),
        width=chart.WIDTH,
        height=chart.HEIGHT,
        route_width=drawings.ROUTE_WIDTH,
        time_width=chart.TIME_WIDTH,
        time_height=chart.TIME_HEIGHT,
    )


def _charts(history: Mapping[str, Sequence[float]], report: Mapping[str, Any]) -> list[chart.Chart]:
    names = [name for name in _ORDER if name in history] + sorted(set(history) - set(_ORDER))
    steps = [incident["step"] for incident in report["incidents"] if incident["stage"] == "train"]
    drawn = (chart.draw(name, history[name], steps, report["run"]["steps"]) for name in names)
    return [drawing for drawing in drawn if drawing is not None]


def _missing(history: Mapping[str, Sequence[float]], report: Mapping[str, Any]) -> str:
    """Return, in words, what of a run that has made steps was not measured; "" where nothing is missing."""
    if report["run"]["steps"] < 2:
        return ""
    names = [words for name, words in _USUAL.items() if not len(history.get(name, ()))]
    shown = [item.get("look_back") or {} for item in report["incidents"]]
    names += [words for name, words in _MAPS if shown and not any(back.get(name) for back in shown)]
    return f"Not measured in this run: {', '.join(names)}." if names else ""


def _drawings(
    item: Mapping[str, Any], incident: model.Incident, files: Mapping[str, bytes], is_mapped: bool
) -> Drawings:
    steps = [drawings.Passed(s.op, s.phase, s.place, s.function, s.module, s.value) for s in incident.path]
    shown = (drawings.show(picture, files) for picture in item.get("pictures") or ())
    back = item.get("look_back") or {"steps": [], "layers": []}
    names = _MAPS if is_mapped else ()
    left_out = (
        "" if is_mapped or not back["layers"] else f"Maps by layer are drawn of the first {_MOST_MAPPED} incidents."
    )
    failing = item["step"] if item["stage"] == "train" else -1
    maps = (
        drawings.draw_heat(title, back["layers"], back["steps"], back.get(name) or (), failing) for name, title in names
    )
    return Drawings(
        path=drawings.draw_route(steps, incident.headline, clean(item["symptom"]["what"])),
        pictures=tuple(picture for picture in shown if picture is not None),
        terms=_terms(back, failing),
        maps=tuple(drawn for drawn in maps if drawn is not None),
        note=clean(back.get("note") or "Measured by running the last steps once more."),
        left_out=left_out,
    )


def _terms(back: Mapping[str, Any], failing: int) -> chart.Lines | None:
    """Return the loss terms over the last steps; a loss without terms is in the history already."""
    terms = back.get("terms") or {}
    return chart.draw_lines("loss terms", back["steps"], terms, failing) if len(terms) > 1 else None


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the findings of a data set as rows of clean text, worst first as they come."""
    findings = [item for item in data.get("findings") or () if isinstance(item, dict)]
    rows = [
        {
            key: clean(item.get(key) if item.get(key) is not None else "")
            for key in ("severity", "check", "file", "message")
        }
        for item in findings[:_MOST_FINDINGS]
    ]
    counts = data.get("counts") if isinstance(data.get("counts"), dict) else {}
    facts = [f"{number(value)} {clean(name)}" for name, value in (counts or {}).items() if isinstance(value, int)]
    return {"path": clean(data.get("path") or ""), "facts": facts, "rows": rows, "n": len(findings)}


@cache
def _script() -> str:
    return (resources.files("whynan.report") / "templates" / "report.js").read_text("utf-8").strip()


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("whynan.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
