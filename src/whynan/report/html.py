"""A report as one page: self-contained, without a script, fit for print; everything in it is escaped."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from whynan.report import chart, model

_ORDER = ("loss", "grad_norm", "lr")


def render(
    report: Mapping[str, Any], history: Mapping[str, Sequence[float]] | None = None, roots: Sequence[Path] = ()
) -> str:
    """Return the page of a report, with its history as charts; `roots` are where source files are looked for."""
    page = model.build(report, roots)
    return _template().render(page=page, charts=_charts(history or {}), width=chart.WIDTH, height=chart.HEIGHT)


def _charts(history: Mapping[str, Sequence[float]]) -> list[chart.Chart]:
    names = [name for name in _ORDER if name in history] + sorted(set(history) - set(_ORDER))
    drawn = (chart.draw(name, history[name]) for name in names)
    return [drawing for drawing in drawn if drawing is not None]


@cache
def _template() -> Template:
    text = (resources.files("whynan.report") / "templates" / "report.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)
