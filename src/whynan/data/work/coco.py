"""A COCO file: columns from its reader, joined with the images that are there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations, Keypoints, Polygons
from whynan.data.checks.area_not_positive import ABSENT_AREA
from whynan.data.checks.size_mismatch import SizeMismatch
from whynan.data.finding import all_checks, report
from whynan.data.readers.coco import CocoFile, read
from whynan.data.readers.problems import as_findings, of_os_error
from whynan.data.units import Item, Job, Outcome, Unit, pack, unpack
from whynan.data.work.annotated import count_classes, find_unknown_labels, look_at_table

Present = Mapping[str, tuple[int, int] | None]
_ASKED = 200
"""File names by which the folder of the images is found."""


def look(job: Job, unit: Unit, outcome: Outcome) -> None:
    """Read COCO files and check them against the images that are there."""
    for item in unit.items:
        content = _read(job, item, outcome)
        if content is not None:
            outcome.findings.add(as_findings(item.name, content.problems))
            _look_at(job, item, content, unit.shared["present"], outcome)


def _read(job: Job, item: Item, outcome: Outcome) -> CocoFile | None:
    if item.facts is not None:
        return CocoFile.from_facts(unpack(item.facts))
    try:
        with job.storage.open(item.name) as file:
            content = read(file)
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
    """Annotations of images that the file does not have."""
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
