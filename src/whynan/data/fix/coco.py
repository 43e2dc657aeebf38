"""Repairs of COCO files, element by element: memory does not grow with the file."""

import json
from typing import IO, Any

import numpy as np

from whynan.data.annotations import shoelace
from whynan.data.fix.changes import DROPPED, Changes, Orders
from whynan.data.readers.json_stream import BEGIN, ELEMENT, END, JsonStream

_RINGS = {"polygon-too-short", "polygon-zero-area"}


def repair(
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
