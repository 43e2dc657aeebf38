"""Files beside report.json that its page shows: pictures, and what `whynan data` wrote there."""

import json
from pathlib import Path
from typing import Any

DATA = "data.json"
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_PICTURE = 8_000_000
_LARGEST_DATA = 20_000_000


def read_pictures(report: dict[str, Any], out: Path) -> dict[str, bytes]:
    """Return the content of the PNG files that a report names; what is missing or no PNG is left out."""
    found: dict[str, bytes] = {}
    for incident in report["incidents"]:
        for picture in incident.get("pictures") or ():
            for key in ("file", "overlay"):
                # Only the name counts: a report must not make us read elsewhere.
                name = Path(str(picture.get(key) or "")).name
                content = _read(out / name, _LARGEST_PICTURE) if name.endswith(".png") else None
                if content is not None and content.startswith(_PNG):
                    found[name] = content
    return found


def read_data(out: Path) -> dict[str, Any] | None:
    """Return data.json beside a report, as `whynan data PATH --json DIR/data.json` writes it; None if there is none."""
    content = _read(out / DATA, _LARGEST_DATA)
    try:
        data = json.loads(content) if content is not None else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("schema") == "whynan.data/1" else None


def _read(path: Path, most: int) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= most else None
    except OSError:
        return None
