"""Units of label files: YOLO text and VOC XML."""

from typing import Any

from whynan.data.catalogue import all_checks, report
from whynan.data.checks.size_mismatch import SizeMismatch
from whynan.data.readers import images, voc, yolo
from whynan.data.readers.problems import as_findings, facts_of
from whynan.data.units import Item, Job, Outcome, Unit
from whynan.data.work.labels import count_classes, find_unknown_labels, look_at_table


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
