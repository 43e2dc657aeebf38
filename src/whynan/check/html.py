"""A page: suspects with their lines, ranges as pictures, witnesses, the review."""

import math
import os
from pathlib import Path
from typing import Any

import jinja2

from whynan.check.ranges import Range
from whynan.check.result import CheckResult

_FOLDER = Path(__file__).parent / "templates"


def page(result: CheckResult) -> str:
    """Return the page of a result: one file, nothing loaded from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["short"] = lambda path: os.path.relpath(path) if path else ""
    return environment.get_template("check.html.jinja").render(result=result, bar=bar, code=code)


def bar(x: Range) -> dict[str, Any]:
    """Return where a range lies on a logarithmic axis with 0 in the middle, from 0 to 100."""
    a, b = _place(x.lo), _place(x.hi)
    return {"left": round(a, 1), "width": round(max(b - a, 1.0), 1), "lo": f"{x.lo:.4g}", "hi": f"{x.hi:.4g}"}


def _place(x: float) -> float:
    if math.isinf(x):
        return 100.0 if x > 0 else 0.0
    size = min(math.log10(1 + abs(x) * 1e3) / 12, 1.0)
    return 50 + 48 * math.copysign(size, x)


def code(file: str, line: int, around: int = 2) -> list[tuple[int, str, bool]]:
    """Return the lines about a line: number, text, whether it is the one."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(n, lines[n - 1], n == line) for n in range(max(line - around, 1), min(line + around, len(lines)) + 1)]
