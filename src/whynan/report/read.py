"""A saved report, read again and held against its schema."""

import json
from pathlib import Path
from typing import Any

from whynan.errors import ReportError
from whynan.records import SCHEMA
from whynan.report.beside import read_npz
from whynan.report.save import REPORT
from whynan.report.schema import schema
from whynan.report.schema.check import find_fault


def load(out: Path) -> dict[str, Any]:
    """Return report.json of a folder. Raises ReportError where it is missing, broken or of another version."""
    path = out / REPORT
    parsed = _parse(path)
    report: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    version = report.get("schema")
    if version != SCHEMA:
        raise ReportError(
            f"{path} is of format {version!r}, and this whynan reads {SCHEMA!r}; {_other_version(version)}"
        )
    fault = find_fault(report, schema())
    if fault:
        raise ReportError(f"{path} is not a whole report: {fault}; run `whynan run` again")
    return report


def load_history(report: dict[str, Any], out: Path) -> dict[str, tuple[float, ...]]:
    """Return the series of a report's history; those that cannot be read are left out, a report is whole without."""
    history = report["history"]
    if not history:
        return {}
    try:
        # Only the name counts: a report must not make us read elsewhere.
        series = read_npz(out / Path(history["file"]).name)
    except (OSError, ValueError):
        return {}
    return {name: series[name] for name in history["series"] if name in series}


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ReportError(f"there is no {path}; `whynan run --out {path.parent} SCRIPT` writes one") from error
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}; run `whynan run` again") from error


def _other_version(version: object) -> str:
    if isinstance(version, str) and version.startswith("whynan.report/"):
        return "use the whynan that wrote it, or run `whynan run` again"
    return "is it a report of whynan?"
