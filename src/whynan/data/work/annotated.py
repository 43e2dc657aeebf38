"""Images with annotation files of their own, and the classes of annotated images."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.checks.size_mismatch import SizeMismatch
from whynan.data.finding import all_checks, look_at, report
from whynan.data.readers import images, voc, yolo
from whynan.data.readers.problems import as_findings, facts_of
from whynan.data.units import Item, Job, Outcome, Unit


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


def look_at_yolo(job: Job, unit: Unit, outcome: Outcome) -> None:
    """Read label files of YOLO. What each line means is told by the number of its numbers."""
    kept, facts = _read_all(job, unit, outcome, yolo.read)
    declared = unit.shared["classes"]
    keypoints = unit.shared.get("keypoints")
    for item, fact in zip(kept, facts):
        if not fact["n"] and not fact["p"]:
            outcome.findings.add(
                [
                    report(
                        "annotation-file-empty",
                        item.name,
                        "0 lines",
                        "label file without a line: background, or an export that failed",
                    )
                ]
            )
        if item.image is None and unit.shared["has_images"]:
            message = "label file without an image of the same name; loaders pass over it"
            outcome.findings.add([report("image-missing", item.name, "no image", message, severity="warning")])
        outcome.statistics.per_image[len(fact["n"])] += 1
        outcome.findings.add(as_findings(item.name, fact["p"]))
    table, problems = yolo.table(
        [item.name for item in kept], [item.image for item in kept], [item.size for item in kept], facts,
        tuple(keypoints) if keypoints else None,
    )  # fmt: skip
    for number, problem in problems:
        outcome.findings.add(as_findings(kept[number].name, [problem]))
    look_at_table(job, table, outcome)
    if declared is not None:
        find_unknown_labels(table, declared, outcome)
    elif len(table):
        find_unknown_labels(table, dict.fromkeys(set(table.label[table.label >= 0].tolist()), ""), outcome)
    count_classes(table, [item.split for item in kept], int, outcome)
    outcome.statistics.classes.update(
        {(declared or {}).get(label, str(label)): n for label, n in outcome.counts.items()}
    )


def look_at_voc(job: Job, unit: Unit, outcome: Outcome) -> None:
    """Read XML files of Pascal VOC."""
    kept, facts = _read_all(job, unit, outcome, voc.read)
    kept = [_with_image(job, unit, item, fact) for item, fact in zip(kept, facts)]
    size_check = all_checks()["size-mismatch"]
    assert isinstance(size_check, SizeMismatch)
    for item, fact in zip(kept, facts):
        if fact["p"]:
            outcome.findings.add(as_findings(item.name, fact["p"]))
            if any(index is None for _, index, _, _ in fact["p"]):
                continue
        if item.image is None and unit.shared["has_images"]:
            message = f"the image {fact['filename'] or 'of this annotation'} is not there"
            outcome.findings.add([report("image-missing", item.name, fact["filename"] or "no image", message)])
        if not fact["c"]:
            outcome.findings.add(
                [report("image-without-annotations", item.name, "0 objects", "no object is annotated")]
            )
        if (fact["w"], fact["h"]) != item.size:
            outcome.findings.add(size_check.declared(item.name, item.image, (fact["w"], fact["h"]), item.size))
        for index, name in enumerate(fact["c"] if None in fact["c"] else ()):
            if name is None:
                outcome.findings.add([report("label-missing", item.name, "no name", "object has no class name", index)])
        outcome.statistics.per_image[len(fact["c"])] += 1
    table, names = voc.table(
        [item.name for item in kept], [item.image for item in kept], [item.size for item in kept], facts
    )
    look_at_table(job, table, outcome)
    _find_unknown_names(job, table, names, outcome)
    count_classes(table, [item.split for item in kept], lambda label: names[label], outcome)
    outcome.statistics.classes.update(outcome.counts)


def _find_unknown_names(job: Job, table: Any, names: list[str], outcome: Outcome) -> None:
    if not job.options.names:
        return
    declared = {k: name for k, name in enumerate(names) if name in job.options.names}
    check = all_checks()["label-out-of-range"]
    for row, label in enumerate(table.label.tolist()):
        if label >= 0 and label not in declared:
            file, index = table.where(row)
            message = f"class {names[label]!r} is not one of {', '.join(job.options.names[:8])}"
            finding = check.finding(
                file, names[label], message, index, image=table.image_name(row), box=table.pixels(row)
            )
            outcome.findings.add([finding])


def _read_all(job: Job, unit: Unit, outcome: Outcome, read: Any) -> tuple[list[Item], list[Any]]:
    kept, facts = [], []
    for item in unit.items:
        fact = facts_of(job, item, unit.kind, outcome, read, "annotation-unreadable")
        if fact is not None:
            kept.append(item)
            facts.append(fact)
    outcome.statistics.n_files += len(kept)
    return kept, facts


def _with_image(job: Job, unit: Unit, item: Item, fact: Any) -> Item:
    """Look for the image by the name that stands in the file, where none has the name of the file."""
    if item.image is not None or not fact["filename"]:
        return item
    name = fact["filename"].replace("\\", "/").rpartition("/")[2]
    for folder in unit.shared["image_folders"]:
        path = f"{folder}/{name}" if folder else name
        try:
            with job.storage.open(path) as file, images.open_image(file) as image:
                return Item(item.name, item.split, path, image.size)
        except OSError:
            continue
        except Exception:  # it is there, and does not decode: its own finding says so
            return Item(item.name, item.split, path)
    return item
