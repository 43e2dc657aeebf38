"""Repaired copies of annotation files, by format. Originals are never opened for writing.

COCO files are repaired element by element: memory does not grow with the file.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from whynan.data.annotations import shoelace
from whynan.data.finding import Finding, need
from whynan.data.readers import coco as coco_reader
from whynan.data.readers import images
from whynan.data.readers.json_stream import BEGIN, ELEMENT, END, JsonError, JsonStream
from whynan.data.result import Result
from whynan.data.storage import Storage, locate
from whynan.errors import OutputError

DROPPED = {"box-zero-size", "box-nonfinite", "box-outside-image", "box-duplicate", "label-missing"}
"""Checks whose annotation is left out of the copy."""

_RINGS = {"polygon-too-short", "polygon-zero-area"}


@dataclass
class Orders:
    """What is to be done in one file: slugs by the index of the annotation; None stands for the file as a whole."""

    by_index: dict[int | None, list[Finding]] = field(default_factory=dict)

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> "Orders":
        made = cls()
        for finding in findings:
            if finding.fixable:
                made.by_index.setdefault(finding.annotation, []).append(finding)
        return made

    def slugs(self, index: int) -> set[str]:
        return {finding.check for finding in self.by_index.get(index, ())}

    def of_file(self) -> list[Finding]:
        return self.by_index.get(None, [])


@dataclass
class Changes:
    """Counts of what was done, by sentence; findings that were left as they are, by check."""

    done: Counter[str] = field(default_factory=Counter)
    n_files: int = 0
    n_changed: int = 0
    refused: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    place: str = ""

    def text(self) -> str:
        lines = [f"{self.n_changed} of {self.n_files} annotation files repaired, all of them written to {self.place}"]
        lines += [f"  {n:6,}  {what}" for what, n in self.done.most_common()]
        if self.left:
            left = ", ".join(f"{slug} {n:,}" for slug, n in self.left.most_common())
            lines.append(f"not repaired, as it takes somebody who knows the pictures: {left}")
        lines += [f"not written: {reason}" for reason in self.refused]
        return "\n".join(lines)


def _repair_coco(
    file: IO[bytes],
    out: IO[str],
    orders: Orders,
    changes: Changes,
    sizes: dict[str, tuple[int, int]],
    first_free_id: int,
) -> None:
    """Write the repaired content of a file. `sizes` has the real sizes of images by their bare name, `first_free_id` is
    above all ids. Raises JsonError where the file cannot be read."""
    repairer = _Repairer(orders, changes, sizes, first_free_id)
    separator = "{"
    for event, key, value in JsonStream(file):
        if event == BEGIN:
            out.write(f"{separator}{json.dumps(key)}: [")
            separator, inner, index = ", ", "", -1
        elif event == ELEMENT:
            index += 1
            made = repairer.element(key, index, value)
            if made is not None:
                out.write(f"{inner}{json.dumps(made)}")
                inner = ",\n"
        elif event == END:
            out.write("]")
        else:
            out.write(f"{separator}{json.dumps(key)}: {json.dumps(value)}")
            separator = ", "
    out.write("{}" if separator == "{" else "}\n")


class _Repairer:
    def __init__(self, orders: Orders, changes: Changes, sizes: dict[str, tuple[int, int]], first_free_id: int) -> None:
        self.orders = orders
        self.changes = changes
        self.next_id = first_free_id
        wrong = {(f.image or "").rpartition("/")[2] for f in orders.of_file() if f.check == "size-mismatch"}
        self.real = {name: sizes[name] for name in wrong if name in sizes}
        self.sizes: dict[Any, tuple[float, float]] = {}

    def element(self, key: str, index: int, value: Any) -> Any:
        if key == "images" and isinstance(value, dict):
            return self.image(value)
        if key == "annotations" and isinstance(value, dict):
            slugs = self.orders.slugs(index)
            return self.annotation(value, slugs, index) if slugs else value
        return value

    def image(self, value: dict[str, Any]) -> dict[str, Any]:
        name = str(value.get("file_name", "")).replace("\\", "/").rpartition("/")[2]
        if name in self.real:
            real = self.real[name]
            if (value.get("width"), value.get("height")) != real:
                self.changes.done["sizes set to that of the image: size-mismatch"] += 1
            value = {**value, "width": real[0], "height": real[1]}
        return value

    def annotation(self, value: dict[str, Any], slugs: set[str], index: int) -> dict[str, Any] | None:
        value = dict(value)
        done = self.changes.done
        if slugs & DROPPED:
            done[f"annotations dropped: {min(slugs & DROPPED)}"] += 1
            return None
        if slugs & _RINGS and not self.keep_good_rings(value):
            done[f"annotations dropped, without a polygon left: {min(slugs & _RINGS)}"] += 1
            return None
        if "box-negative-size" in slugs:
            x, y, width, height = value["bbox"]
            value["bbox"] = [min(x, x + width), min(y, y + height), abs(width), abs(height)]
            done["boxes turned to a positive size: box-negative-size"] += 1
        if "box-partly-outside-image" in slugs:
            self.clip(value, index)
        if "area-not-positive" in slugs:
            value["area"] = _area(value)
            done["areas computed anew: area-not-positive"] += 1
        if "duplicate-annotation-id" in slugs:
            value["id"] = self.next_id
            self.next_id += 1
            done["annotations given an id of their own: duplicate-annotation-id"] += 1
        return value

    def keep_good_rings(self, value: dict[str, Any]) -> bool:
        rings = value.get("segmentation") or []
        good = [ring for ring in rings if len(ring) >= 6 and _ring_area(ring) > 1e-9]
        self.changes.done["polygons dropped: polygon-too-short, polygon-zero-area"] += len(rings) - len(good)
        value["segmentation"] = good
        return bool(good)

    def clip(self, value: dict[str, Any], index: int) -> None:
        """The size of the image stands in the finding: images may come after annotations in the file."""
        found = [f for f in self.orders.by_index[index] if f.check == "box-partly-outside-image"]
        width, height = (
            float(side) for side in found[0].message.rpartition("image of ")[2].removesuffix(" px").split(" x ")
        )
        x, y, w, h = value["bbox"]
        x1, y1, x2, y2 = max(0.0, x), max(0.0, y), min(width, x + w), min(height, y + h)
        value["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        self.changes.done["boxes clipped to their image: box-partly-outside-image"] += 1


def _ring_area(ring: list[float]) -> float:
    points = np.array(ring, dtype=np.float64).reshape(-1, 2)
    return float(shoelace(points, np.array([len(points)]))[0])


def _area(value: dict[str, Any]) -> float:
    rings = value.get("segmentation")
    if isinstance(rings, list) and rings and isinstance(rings[0], list):
        area = sum(_ring_area(ring) for ring in rings if len(ring) >= 6)
        if area > 0:
            return area
    box = value.get("bbox") or [0, 0, 0, 0]
    return float(box[2]) * float(box[3])


def _repair_voc(data: bytes, orders: Orders, changes: Changes, sizes: dict[str, tuple[int, int]]) -> bytes:
    etree = need("lxml.etree", "data", "reading XML annotations")
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)
    root = etree.fromstring(data, parser)
    for finding in orders.of_file():
        if finding.check == "size-mismatch" and finding.image in sizes:
            _set_size(etree, root, sizes[finding.image])
            changes.done["sizes set to that of the image: size-mismatch"] += 1
    size = _declared_size(root)
    dropped = []
    for index, element in enumerate(root.findall("object")):
        slugs = orders.slugs(index)
        if slugs & DROPPED:
            changes.done[f"objects dropped: {min(slugs & DROPPED)}"] += 1
            dropped.append(element)
            continue
        box = element.find("bndbox")
        if box is not None and "box-negative-size" in slugs:
            _order(box)
            changes.done["corners put in order: box-negative-size"] += 1
        if box is not None and "box-partly-outside-image" in slugs and size is not None:
            _clip(box, size)
            changes.done["boxes clipped to their image: box-partly-outside-image"] += 1
    for element in dropped:
        root.remove(element)
    tree = root.getroottree()
    return bytes(
        etree.tostring(
            tree, xml_declaration=data.lstrip().startswith(b"<?xml"), encoding=tree.docinfo.encoding or "utf-8"
        )
    )


def _declared_size(root: Any) -> tuple[float, float] | None:
    try:
        width, height = float(root.findtext("size/width")), float(root.findtext("size/height"))
    except (TypeError, ValueError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _set_size(etree: Any, root: Any, real: tuple[int, int]) -> None:
    element = root.find("size")
    if element is None:
        element = etree.SubElement(root, "size")
    for name, side in zip(("width", "height"), real):
        child = element.find(name)
        if child is None:
            child = etree.SubElement(element, name)
        child.text = str(side)


def _order(box: Any) -> None:
    for low, high in (("xmin", "xmax"), ("ymin", "ymax")):
        first, second = box.find(low), box.find(high)
        if float(first.text) > float(second.text):
            first.text, second.text = second.text, first.text


def _clip(box: Any, size: tuple[float, float]) -> None:
    for name, end in (("xmin", size[0]), ("xmax", size[0]), ("ymin", size[1]), ("ymax", size[1])):
        side = box.find(name)
        value = float(side.text)
        clipped = min(max(value, 0.0), end)
        if clipped != value:
            side.text = f"{clipped:.6g}"


def _repair_yolo(data: bytes, orders: Orders, changes: Changes) -> bytes:
    kept = []
    for index, line in enumerate(data.splitlines(keepends=True)):
        slugs = orders.slugs(index)
        if slugs & (DROPPED | _RINGS):
            for slug in sorted(slugs & (DROPPED | _RINGS)):
                changes.done[f"lines dropped: {slug}"] += 1
                break
            continue
        if "box-negative-size" in slugs or "box-partly-outside-image" in slugs:
            line = _repair_line(line, slugs, changes)
        kept.append(line)
    return b"".join(kept)


def _repair_line(line: bytes, slugs: set[str], changes: Changes) -> bytes:
    label, *rest = line.split()
    numbers = [float(token) for token in rest]
    ending = line[len(line.rstrip(b"\r\n")) :]
    if len(numbers) == 4:
        cx, cy, width, height = numbers[0], numbers[1], abs(numbers[2]), abs(numbers[3])
        if "box-negative-size" in slugs:
            changes.done["boxes turned to a positive size: box-negative-size"] += 1
        if "box-partly-outside-image" in slugs:
            x1, x2 = max(0.0, cx - width / 2), min(1.0, cx + width / 2)
            y1, y2 = max(0.0, cy - height / 2), min(1.0, cy + height / 2)
            cx, cy, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            changes.done["boxes clipped to their image: box-partly-outside-image"] += 1
        numbers = [cx, cy, width, height]
    elif "box-partly-outside-image" in slugs:
        numbers = [min(1.0, max(0.0, value)) for value in numbers]
        changes.done["polygons clipped to their image: box-partly-outside-image"] += 1
    return b" ".join([label, *(f"{value:.9g}".encode("ascii") for value in numbers)]) + ending


def repair(result: Result, out: Path) -> Changes:
    """Write the annotation files of a result into `out`, repaired where that takes no guess, else as they are.

    Returns what was changed and what was not. Raises OutputError where `out` cannot be written.
    """
    storage, _ = locate(result.path)
    root = Path(storage.root).resolve()
    if out.resolve() == root:
        raise OutputError(f"can't repair into {out}: that is the data set itself; name another folder")
    changes = Changes(place=str(out))
    by_file: dict[str, list[Finding]] = defaultdict(list)
    for finding in result.findings:
        by_file[finding.file].append(finding)
        if not finding.fixable and finding.severity != "note":
            changes.left[finding.check] += 1
    sizes = _real_sizes(storage, result.findings)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for format_, name in result.annotation_files:
            _write(storage, out, format_, name, Orders.of(by_file.get(name, ())), changes, sizes)
    except OSError as error:
        raise OutputError(f"can't write to {out}: {error.strerror or error}") from error
    return changes


def _write(
    storage: Storage,
    out: Path,
    format_: str,
    name: str,
    orders: Orders,
    changes: Changes,
    sizes: dict[str, tuple[int, int]],
) -> None:
    place = out / name
    place.parent.mkdir(parents=True, exist_ok=True)
    changes.n_files += 1
    try:
        if not orders.by_index:
            shutil.copyfile(storage.path(name), place)
            return
        changes.n_changed += 1
        if format_ == "coco":
            _write_coco(storage, place, name, orders, changes, sizes)
        elif format_ == "voc":
            place.write_bytes(_repair_voc(storage.read(name), orders, changes, sizes))
        else:
            place.write_bytes(_repair_yolo(storage.read(name), orders, changes))
    except (JsonError, SyntaxError, ValueError) as error:
        changes.n_changed -= 1
        changes.refused.append(f"{name}: {error}")
        place.unlink(missing_ok=True)
    except (FileNotFoundError, PermissionError) as error:
        if error.filename and Path(error.filename).is_relative_to(out):
            raise
        changes.refused.append(f"{name}: {error.strerror}")


def _write_coco(
    storage: Storage, place: Path, name: str, orders: Orders, changes: Changes, sizes: dict[str, tuple[int, int]]
) -> None:
    with storage.open(name) as file:
        ids = coco_reader.read(file).columns["id"]
    bare = {image.rpartition("/")[2]: size for image, size in sizes.items()}
    with storage.open(name) as file, place.open("w", encoding="ascii") as out:
        _repair_coco(file, out, orders, changes, bare, int(ids.max(initial=0)) + 1)


def _real_sizes(storage: Storage, findings: list[Finding]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for name in {f.image for f in findings if f.check == "size-mismatch" and f.fixable and f.image}:
        try:
            with storage.open(name) as file, images.open_image(file) as image:
                found[name] = image.size
        except Exception:  # an image that does not open has no size to write
            continue
    return found
