"""The published form of report.json."""

import json
from functools import cache
from importlib import resources
from typing import Any

NAME = "report.schema.json"


@cache
def _text() -> str:
    return (resources.files(__name__) / NAME).read_text("utf-8")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of report.json."""
    loaded: dict[str, Any] = json.loads(_text())
    return loaded
