"""A report as one page."""

import html
from collections.abc import Mapping
from typing import Any

from whynan.report import model


def render(report: Mapping[str, Any], history: Mapping[str, tuple[float, ...]]) -> str:
    """Return the page."""
    return f"<!doctype html><title>whynan</title><h1>{html.escape(model.build(report).headline)}</h1>"
