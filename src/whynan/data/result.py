"""`whynan.data.check`: the same checks on a path, or on what a model will really get; and what a look comes to."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from whynan.data.finding import EngineName, Finding, Findings, Format, Options
from whynan.data.measure import Statistics, initial_losses
from whynan.data.objects import ObjectLook
from whynan.data.sources import Failure, Single, source_of
from whynan.data.storage import Storage
from whynan.data.units import Job, PartView
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


def check(
    data: Any,
    *,
    classes: int | tuple[str, ...] | list[str] | None = None,
    ignore_index: int | None = None,
    format: Format = "auto",
    box_format: str | None = None,
    limit: int | None = None,
    train_size: int = 640,
    tolerance: float = 0.25,
    engine: EngineName = "local",
    workers: int | None = 1,
    cache: bool = True,
    progress: bool = False,
) -> Result:
    """Look at a data set and return what would break a loss in it.

    `data` is a path, as `whynan data` takes it, or an object: a PyTorch Dataset or DataLoader, tf.data.Dataset, Keras
    PyDataset, MindSpore dataset, an array [n, ...] or a tuple or dict of them, anything that can be indexed or iterated
    over. Objects are gone through once, after all their transforms; a sample is an array, a pair (input, target) or a
    mapping, and a target may be a mapping with "boxes" [n, 4] and "labels" [n]. Boxes are corners (x1, y1, x2, y2) in
    pixels or shares of the image, "xywh" or "cxcywh" where `box_format` or the tensor itself says so.

    `classes` is their number or their names, `limit` the number of samples to look at. Raises whynan.errors.WhynanError
    where a path cannot be looked at, TypeError where an object is none of the above. A sample that raises an
    exception is a finding.

    >>> import numpy as np
    >>> from whynan.data import check
    >>> x = np.array([[1.0, 2.0], [3.0, np.nan]])
    >>> [(finding.check, finding.annotation, finding.value) for finding in check((x, np.array([0, 1]))).findings]
    [('value-nan', 1, 'column 1=nan')]
    """
    names = tuple(classes) if isinstance(classes, (tuple, list)) else ()
    options = Options(
        format=format,
        classes=len(names) if names else classes if isinstance(classes, int) else None,
        names=names,
        ignore_index=ignore_index,
        train_size=train_size,
        tolerance=tolerance,
    )
    if isinstance(data, (str, PathLike)):
        from whynan.data.scan import scan
        from whynan.data.terminal import Bars

        with Bars(sys.stderr if progress else None) as bars:
            return scan(fspath(data), options, engine=engine, workers=workers, is_cached=cache, progress=bars)
    return _check_object(data, options, box_format, limit, progress)


def _check_object(data: Any, options: Options, box_format: str | None, limit: int | None, progress: bool) -> Result:
    from whynan.data.terminal import Bars

    started = time.perf_counter()
    source = source_of(data)
    look = ObjectLook(Job(Storage("."), options), source.name, box_format)
    result = Result(source.name, source.kind, "python", Findings(), Statistics())
    with Bars(sys.stderr if progress else None) as bars:
        bars.stage("batches" if source.is_batched else "samples", source.length or 0)
        try:
            for indices, item in source.items:
                for index, sample in _samples(indices, item, source.is_batched):
                    if limit is not None and look.n >= limit:
                        break
                    look.add(index, sample)
                bars.advance(1)
                if limit is not None and look.n >= limit:
                    break
        except KeyboardInterrupt:
            result.is_interrupted = True
    outcome = look.finish()
    result.found = _with_paths(outcome.findings, source.dataset)
    result.statistics = outcome.statistics
    labelled = [each["labels"] for each in result.statistics.arrays if each["labels"]]
    if len(labelled) == 1 and not result.statistics.classes:
        result.statistics.classes.update(labelled[0])
        result.statistics.counted_in = "samples"
    result.n_files = result.n_read = look.n
    result.seconds = time.perf_counter() - started
    return result


def _samples(indices: list[int], item: Any, is_batched: bool) -> Iterator[tuple[int, Any]]:
    if isinstance(item, Single):
        yield indices[0], item.sample
        return
    if not is_batched or isinstance(item, Failure):
        yield indices[0] if indices else 0, item
        return
    for position, index in enumerate(indices):
        yield index, _pick(item, position, len(indices))


def _pick(value: Any, position: int, size: int) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if getattr(value, "ndim", 0) and value.shape[0] == size:
            part = value[position]
            return part if hasattr(part, "shape") else np.asarray(part)
        return value
    if isinstance(value, Mapping):
        return {key: _pick(part, position, size) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        # A list with an element for each sample, unless its elements are batched arrays themselves.
        if len(value) == size and not all(hasattr(part, "shape") and part.shape[:1] == (size,) for part in value):
            is_fields = any(isinstance(part, (tuple, list)) and len(part) == size for part in value)
            if not is_fields:
                return value[position]
        return tuple(_pick(part, position, size) for part in value)
    return value


def _with_paths(findings: Findings, dataset: Any) -> Findings:
    if dataset is None or "torch" not in sys.modules:
        return findings
    from dataclasses import replace

    from whynan.adapters.torch.data.lineage import resolve

    told = Findings()
    for finding in findings:
        index = _index_in(finding.file) if "[" in finding.file else finding.annotation
        path = None
        if isinstance(index, int) and finding.check not in (
            "feature-zero-variance",
            "feature-near-zero-variance",
            "value-extreme",
        ):
            try:
                path = resolve(dataset, index).path
            except Exception:  # a dataset of the user's own making may refuse
                path = None
        told.add([replace(finding, message=f"{finding.message} ({path})") if path else finding])
    told.add_counts(findings.counts - told.counts)
    return told


def _index_in(name: str) -> int | None:
    text = name.partition("[")[2].partition("]")[0]
    return int(text) if text.isdigit() else None
