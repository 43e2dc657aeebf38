"""What all formats of boxes have in common once they are a table: checks, counts, labels."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.catalogue import all_checks, look_at
from whynan.data.units import Job, Outcome


def look_at_table(job: Job, table: Annotations, outcome: Outcome) -> None:
    """Run the checks of a table, and count its boxes."""
    # Comparisons with NaN are part of the checks: they are false.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        outcome.findings.add(look_at("annotations", table, job.options))
        outcome.statistics.add_boxes(table)
        _count_conventions(job, table, outcome)
    outcome.n_crowd += int(table.crowd.sum())


def count_classes(table: Annotations, splits: Sequence[str | None], names: Any, outcome: Outcome) -> None:
    """Count annotations by class; `splits` has the split of each file, `names` the key of each label."""
    _count(table.label, names, outcome.counts)
    for split in sorted({split for split in splits if split}):
        of_split = np.array([each == split for each in splits], dtype=bool)
        _count(table.label[of_split[table.file]], names, outcome.splits.setdefault(split, Counter()))


def _count(labels: Any, names: Any, counter: "Counter[Any]") -> None:
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    for value, n in zip(values.tolist(), counts.tolist()):
        counter[names(value)] += n


def find_unknown_labels(
    table: Annotations, declared: dict[int, str], outcome: Outcome, text: Any = str, missing: tuple[int, ...] = ()
) -> None:
    """Report the labels that are not declared; those in `missing` are reported as missing already."""
    known = np.fromiter(declared, dtype=np.int64, count=len(declared))
    bad = ~np.isin(table.label, np.concatenate([known, np.array(missing, dtype=np.int64)]))
    if not bad.any():
        return
    check = all_checks()["label-out-of-range"]
    ids = sorted(declared)
    if ids and ids[-1] - ids[0] + 1 == len(ids):
        span = f"{ids[0]}..{ids[-1]}"
    else:
        span = f"the {len(ids)} declared ids"
    for row, file, index, look in table.places(bad):
        label = text(int(table.label[row]))
        outcome.findings.add([check.finding(file, label, f"class {label} is outside of {span}", index, **look)])


def _count_conventions(job: Job, table: Annotations, outcome: Outcome) -> None:
    """Count the boxes that make no sense as they are written, and those that do when they are read another way."""
    rows = table.has_box & (table.size[:, 0] > 0) & (table.size[:, 1] > 0) & table.is_finite
    raw, size = table.raw[rows], table.size[rows]
    slack = job.options.tolerance + 1.0
    is_odd = (table.sides[rows, 0] < 0) | (table.sides[rows, 1] < 0) | (table.overhang[rows] > slack)
    outcome.n_boxes += len(raw)
    outcome.n_odd_boxes += int(is_odd.sum())
    if table.layout == "cxcywh":
        size = np.ones_like(size)
        slack /= 640
    if not is_odd.any():
        return  # nothing to explain by another convention
    readings = {
        "corners (x1, y1, x2, y2)": np.concatenate([raw[:, :2], raw[:, 2:]], axis=1),
        "corner and size (x, y, w, h)": np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1),
    }
    readings.pop(
        {"xyxy": "corners (x1, y1, x2, y2)", "xywh": "corner and size (x, y, w, h)"}.get(table.layout, ""), None
    )
    for name, read in readings.items():
        x1, y1, x2, y2 = (read[:, k] for k in range(4))
        fits = (x2 > x1) & (y2 > y1) & (x1 >= -slack) & (y1 >= -slack)
        outcome.other_boxes[name] += int((fits & (x2 <= size[:, 0] + slack) & (y2 <= size[:, 1] + slack)).sum())
    if table.layout == "cxcywh":
        pixels = np.concatenate([raw[:, :2] - raw[:, 2:] / 2, raw[:, :2] + raw[:, 2:] / 2], axis=1)
        inside = (
            (pixels >= -1).all(axis=1) & (pixels[:, 2:] <= table.size[rows] + 1).all(axis=1) & (raw > 1).any(axis=1)
        )
        outcome.other_boxes["pixels, not shares of the image"] += int(inside.sum())
