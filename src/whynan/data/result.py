"""What a look at a data set comes to: counts, statistics, findings; as data.json writes it."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whynan.data.finding import Finding, Findings
from whynan.data.measure import Statistics, initial_losses
from whynan.data.units import PartView
from whynan.errors import OutputError

SCHEMA = "whynan.data/1"


@dataclass
class Result:
    """Everything that was found out about a data set."""

    path: str
    format: str
    engine: str
    found: Findings
    statistics: Statistics
    parts: list[PartView] = field(default_factory=list)
    seconds: float = 0.0
    is_interrupted: bool = False
    n_files: int = 0
    n_image_files: int = 0
    n_read: int = 0
    """Files that were opened; the others were known from the cache."""
    is_exact: bool = False
    annotation_files: list[tuple[str, str]] = field(default_factory=list)
    """(format, file) of the annotation files that `--fix` knows to repair."""

    @property
    def findings(self) -> list[Finding]:
        """All findings that were kept, worst first."""
        return list(self.found)

    @property
    def n_images(self) -> int:
        """Images of the set: files that are there, or entries of its annotations where those are more."""
        return max(self.statistics.n_images, self.statistics.n_listed, self.n_image_files)

    @property
    def n_errors(self) -> int:
        return self.found.count("error")

    @property
    def is_clean(self) -> bool:
        return self.n_errors == 0

    @property
    def n_declared(self) -> int | None:
        """Number of classes that the part declares whose classes are counted."""
        return next((len(part.declared) for part in self.parts[:1] if part.declared), None)

    @property
    def losses(self) -> dict[str, float]:
        """Losses that a fresh classifier shows at step 0; see `initial_losses`."""
        return initial_losses(self.statistics.classes, self.n_declared)

    def to_json(self) -> dict[str, Any]:
        """Return the content of data.json."""
        statistics = self.statistics
        channels = statistics.usual_channels
        return {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "engine": self.engine,
            "seconds": round(self.seconds, 3),
            "interrupted": self.is_interrupted,
            "counts": {
                "images": self.n_images,
                "images_read": statistics.n_images,
                "annotations": statistics.n_annotations,
                "files": self.n_files,
                "files_read": self.n_read,
                "classes": dict(statistics.classes.most_common()),
                "classes_count": statistics.counted_in,
                "findings": {
                    severity: {check: n for kind, check, n, _ in self.found.groups() if kind == severity}
                    for severity in ("error", "warning", "note")
                },
            },
            "statistics": {
                "mean": [_plain(value) for value in channels.mean] if channels else None,
                "std": [_plain(value) for value in channels.std] if channels else None,
                "pixels": "all" if self.is_exact else "a grid of 64 x 64 of each image",
                "image_sizes": {f"{w}x{h}": n for (w, h), n in statistics.sizes.most_common(50)},
                "image_modes": dict(statistics.modes.most_common()),
                "image_formats": dict(statistics.formats.most_common()),
                "box_sizes_log2_px": {str(size): n for size, n in sorted(statistics.box_sizes.items())},
                "annotations_per_image": {str(size): n for size, n in sorted(statistics.per_image.items())},
                "initial_loss": {name: _plain(value) for name, value in self.losses.items()},
                "arrays": [_plain_array(each) for each in statistics.arrays],
            },
            "findings": [finding.to_json() for finding in self.found],
        }

    def save_json(self, place: Path) -> None:
        """Write data.json, whole or not at all. Raises OutputError."""
        write_whole(place, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def write_whole(place: Path, text: str) -> None:
    """Write a file by way of a temporary one beside it. Raises OutputError."""
    beside = place.with_name(f".{place.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        beside.replace(place)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"can't write {place}: {error.strerror or error}") from error


def _plain(value: float) -> float | str:
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return round(value, 6) if abs(value) < 1e6 else value


def _plain_array(each: dict[str, Any]) -> dict[str, Any]:
    made = {key: each[key] for key in ("name", "shape", "dtype", "is_target", "names", "labels")}
    for key in ("mean", "std"):
        values = each[key]
        made[key] = [_plain(value) for value in values[:1024]] if values is not None else None
    return made
