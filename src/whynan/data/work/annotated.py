"""Images with annotation files of their own, COCO files, and the classes of annotated images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations, Keypoints, Polygons
from whynan.data.checks.area_not_positive import ABSENT_AREA
from whynan.data.checks.size_mismatch import SizeMismatch
from whynan.data.finding import all_checks, look_at, report
from whynan.data.readers import images, labels
from whynan.data.readers.coco import CocoFile
from whynan.data.readers.coco import read as read_file
from whynan.data.units import Item, Job, Outcome, Unit, as_findings, facts_of, of_os_error, pack, unpack

Present = Mapping[str, tuple[int, int] | None]
_ASKED = 200
"""File names by which the folder of the images is found."""


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
    kept, facts = _read_all(job, unit, outcome, labels.read_yolo)
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
    table, problems = labels.yolo_table(
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
    kept, facts = _read_all(job, unit, outcome, labels.read_voc)
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
    table, names = labels.voc_table(
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


def look_at_coco(job: Job, unit: Unit, outcome: Outcome) -> None:
    for item in unit.items:
        content = _read_coco(job, item, outcome)
        if content is not None:
            outcome.findings.add(as_findings(item.name, content.problems))
            _look_at(job, item, content, unit.shared["present"], outcome)


def _read_coco(job: Job, item: Item, outcome: Outcome) -> CocoFile | None:
    if item.facts is not None:
        return CocoFile.from_facts(unpack(item.facts))
    try:
        with job.storage.open(item.name) as file:
            content = read_file(file)
    except OSError as error:
        outcome.findings.add(as_findings(item.name, [of_os_error("annotation-unreadable", error)]))
        return None
    outcome.n_read += 1
    outcome.fresh.append(("coco", item.name, pack(content.to_facts())))
    return content


def _look_at(job: Job, item: Item, content: CocoFile, present: Present, outcome: Outcome) -> None:
    outcome.statistics.n_files += 1
    outcome.statistics.n_listed += len(content.image_ids)
    for key in ("images", "annotations", "categories"):
        if key not in content.keys and not any(index is None for _, index, _, _ in content.problems):
            empty = f'there is no "{key}" with anything in it'
            outcome.findings.add([report("annotation-unreadable", item.name, key, empty, severity="warning")])
    found = _find_images(item.name, content.image_names, present)
    outcome.used = [name for name in found if name is not None]
    table = _table(item.name, content, found, present)
    _look_at_images(item.name, content, found, present, table, outcome)
    look_at_table(job, table, outcome)
    declared = dict(content.categories)
    if job.options.classes is not None and declared:
        _find_too_many(job, item.name, declared, outcome)
    if "categories" in content.keys:
        find_unknown_labels(table, declared, outcome, lambda label: content.id_text.get(label, label), missing=(-1,))
    outcome.declared = declared or None
    count_classes(table, [item.split], int, outcome)
    outcome.statistics.classes.update({declared.get(label, str(label)): n for label, n in outcome.counts.items()})
    _find_repeated_categories(item.name, content, outcome)


def _find_too_many(job: Job, file: str, declared: dict[int, str], outcome: Outcome) -> None:
    n = job.options.classes or 0
    above = [label for label in sorted(declared) if label > n]
    if above:
        message = (
            f"{len(above)} category ids are above {n}, the number of classes given: {above[0]}..{above[-1]}; map them"
        )
        outcome.findings.add([report("label-out-of-range", file, above[-1], message, severity="warning")])


def _find_repeated_categories(file: str, content: CocoFile, outcome: Outcome) -> None:
    ids = [label for label, _ in content.categories]
    for label in sorted({label for label in ids if ids.count(label) > 1}):
        names = ", ".join(name for other, name in content.categories if other == label)
        message = f"category id {label} is declared more than once: {names}"
        outcome.findings.add([report("annotation-unreadable", file, label, message)])


def _find_images(file: str, names: list[str], present: Present) -> list[str | None]:
    """Return for each image the file that is there: in the folder in which most of the first ones are found, else by
    its bare name where only one file has it."""
    here = file.rpartition("/")[0]
    above = here.rpartition("/")[0]
    folders = [here, f"{here}/images".lstrip("/"), above, f"{above}/images".lstrip("/")]
    folders += sorted({name.rpartition("/")[0] for name in present})
    stem = file.rpartition("/")[2].rpartition(".")[0]
    asked = names[:_ASKED]
    votes = {folder: sum(_join(folder, name) in present for name in asked) for folder in dict.fromkeys(folders)}
    # Of folders with as many hits (train and val may use the same names) the one that the file's own name speaks of.
    best = max(votes, key=lambda folder: (votes[folder], _is_named(folder, stem)), default="")
    bare: dict[str, str | None] | None = None
    found: list[str | None] = []
    for name in names:
        path = _join(best, name)
        if path in present:
            found.append(path)
            continue
        if bare is None:
            bare = {}
            for other in present:
                base = other.rpartition("/")[2]
                bare[base] = None if base in bare else other
        found.append(bare.get(name.replace("\\", "/").rpartition("/")[2]))
    return found


def _join(folder: str, name: str) -> str:
    name = name.replace("\\", "/")
    return f"{folder}/{name}" if folder else name


def _is_named(folder: str, stem: str) -> bool:
    last = folder.rpartition("/")[2]
    return bool(last) and last in stem


def _look_at_images(
    file: str, content: CocoFile, found: list[str | None], present: Present, table: Annotations, outcome: Outcome
) -> None:
    are_here = any(found)
    if not are_here and content.image_names:
        message = f"none of the {len(found)} images is here: boxes were checked against the sizes in the file"
        outcome.findings.add([report("images-not-here", file, len(found), message)])
    size_check = all_checks()["size-mismatch"]
    assert isinstance(size_check, SizeMismatch)
    n_annotations = np.bincount(table.image[table.image >= 0], minlength=len(found))
    seen: dict[int, int] = {}
    for number, (name, told) in enumerate(zip(content.image_names, content.image_sizes)):
        image = found[number]
        if image is None and are_here:
            outcome.findings.add([report("image-missing", file, name, f"the image {name} is not there")])
        outcome.findings.add(size_check.declared(file, image, told, present.get(image) if image else None))
        outcome.statistics.per_image[int(n_annotations[number])] += 1
        identity = content.image_ids[number]
        if identity in seen:
            other = content.image_names[seen[identity]]
            text = content.id_text.get(identity, str(identity))
            message = f"image id {text} of {name} is that of {other} already"
            outcome.findings.add([report("duplicate-image-id", file, text, message)])
        elif not n_annotations[number]:
            message = f"the image {name} has no annotation"
            outcome.findings.add([report("image-without-annotations", file, name, message)])
        seen.setdefault(identity, number)
    _find_orphans(file, content, table, outcome)


def _find_orphans(file: str, content: CocoFile, table: Annotations, outcome: Outcome) -> None:
    given = content.columns["image"]
    for row in np.flatnonzero((table.image < 0) & (given != -1)).tolist():
        text = content.id_text.get(int(given[row]), str(int(given[row])))
        message = f"image_id {text} is that of no image in the file"
        outcome.findings.add([report("image-missing", file, text, message, row)])


def _table(file: str, content: CocoFile, found: list[str | None], present: Present) -> Annotations:
    columns = content.columns
    n = len(columns["id"])
    ids = np.array(content.image_ids, dtype=np.int64)
    sizes = np.array(
        [(present.get(name) if name else None) or told for name, told in zip(found, content.image_sizes)],
        dtype=np.float64,
    ).reshape(-1, 2)
    image: Any = np.full(n, -1, dtype=np.int64)
    if len(ids):
        order = np.argsort(ids, kind="stable")
        place = np.minimum(np.searchsorted(ids[order], columns["image"]), len(ids) - 1)
        is_there = ids[order][place] == columns["image"]
        image[is_there] = order[place][is_there]
    size = np.full((n, 2), np.nan)
    size[image >= 0] = sizes[image[image >= 0]]
    raw = columns["box"]
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1)
        # A width as it is written decides, and not the rounding of x + w: 1e9 + 1e-9 is 1e9.
        boxes[:, 2:] = np.where(
            (raw[:, 2:] > 0) & (boxes[:, 2:] <= boxes[:, :2]), np.nextafter(boxes[:, :2], np.inf), boxes[:, 2:]
        )
    return Annotations(
        layout="xywh",
        files=[file],
        images=[name or told for name, told in zip(found, content.image_names)],
        file=np.zeros(n, dtype=np.int64),
        number=np.arange(n),
        image=image,
        size=size,
        raw=raw,
        boxes=boxes,
        has_box=columns["has_box"],
        label=columns["label"],
        crowd=columns["crowd"],
        polygons=Polygons(columns["owner"], columns["points"], columns["polygon_area"]),
        segmentation=columns["segmentation"],
        area=columns["area"] if (columns["area"] != ABSENT_AREA).any() else None,
        ids=columns["id"] if (columns["id"] != -1).any() else None,
        id_text=content.id_text,
        keypoints=Keypoints(columns["keypoint_owner"], columns["keypoint_xy"]),
    )
