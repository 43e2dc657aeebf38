"""COCO JSON: images, annotations and categories in one file, read element by element into columns."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from whynan.data.annotations import ABSENT, EMPTY, POLYGON, RLE, shoelace
from whynan.data.checks.area_not_positive import ABSENT_AREA
from whynan.data.readers import images
from whynan.data.readers.json_stream import BEGIN, END, VALUE, JsonError, JsonStream
from whynan.data.units import Problem, shown

CHUNK = 4096
"""Annotations that become columns at once."""
_NO_BOX = [float("nan")] * 4
_MOST_PROBLEMS = 20_000
_ARRAYS = ("images", "annotations", "categories")


@dataclass
class CocoFile:
    """What a COCO file holds. Ids that are no integers are numbered from -2 down, texts in `id_text`."""

    columns: dict[str, Any] = field(default_factory=dict)
    """Of annotations: id, image, label i64[n]; box f64[n, 4]; has_box, crowd bool[n]; area f64[n]; segmentation i64[n];
    of polygons: owner, points, polygon_area; of keypoints: keypoint_owner, keypoint_xy."""
    image_ids: list[int] = field(default_factory=list)
    image_names: list[str] = field(default_factory=list)
    image_sizes: list[tuple[float, float]] = field(default_factory=list)
    categories: list[tuple[int, str]] = field(default_factory=list)
    id_text: dict[int, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def to_facts(self) -> dict[str, Any]:
        facts = {**vars(self), "keys": sorted(self.keys)}
        facts["columns"] = {
            name: (str(column.dtype), column.shape, column.tobytes()) for name, column in self.columns.items()
        }
        return facts

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "CocoFile":
        made = cls(**{**facts, "keys": set(facts["keys"])})
        made.columns = {
            name: np.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in facts["columns"].items()
        }
        return made


def read(file: IO[bytes], on_bytes: Callable[[int], None] | None = None) -> CocoFile:
    """Return what a file holds, as far as it can be read; problems say what could not."""
    made = CocoFile()
    chunks = _Chunks(made)
    try:
        for event, key, value in JsonStream(file, on_bytes):
            if event in (BEGIN, END):
                continue
            if event == VALUE and key in _ARRAYS:
                text = f'"{key}" is {shown(value)}, not an array'
                made.problems.append(("annotation-unreadable", None, key, text))
                continue
            made.keys.add(key)
            if key == "annotations":
                chunks.add(value)
            elif key == "images":
                _read_image(value, made, chunks)
            elif key == "categories":
                _read_category(value, made, chunks)
    except JsonError as error:
        made.problems.append(("annotation-unreadable", None, f"line {error.line}", f"malformed JSON: {error}"))
    chunks.flush()
    made.columns = chunks.columns()
    return made


def _read_image(value: Any, made: CocoFile, chunks: "_Chunks") -> None:
    number = len(made.image_ids)
    if not isinstance(value, dict) or "id" not in value or not isinstance(value.get("file_name"), str):
        text = f"images[{number}] has no id and file_name: {shown(value)}"
        made.problems.append(("annotation-unreadable", None, f"images[{number}]", text))
        return
    made.image_ids.append(chunks.number_of(value["id"]))
    made.image_names.append(value["file_name"])
    made.image_sizes.append((_size(value.get("width")), _size(value.get("height"))))


def _size(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def _read_category(value: Any, made: CocoFile, chunks: "_Chunks") -> None:
    if not isinstance(value, dict) or "id" not in value:
        text = f"categories[{len(made.categories)}] has no id: {shown(value)}"
        made.problems.append(("annotation-unreadable", None, f"categories[{len(made.categories)}]", text))
        return
    number = chunks.number_of(value["id"])
    made.categories.append((number, str(value.get("name", value["id"]))))


class _Chunks:
    def __init__(self, made: CocoFile) -> None:
        self._made = made
        self._numbers: dict[Any, int] = {}
        self._n = 0
        self._parts: dict[str, list[Any]] = {}
        self._counts: Counter[str] = Counter()
        self._clear()

    def _clear(self) -> None:
        self.id: list[Any] = []
        self.image: list[Any] = []
        self.label: list[Any] = []
        self.box: list[Any] = []
        self.area: list[Any] = []
        self.crowd: list[Any] = []
        self.segmentation: list[int] = []
        self.owner: list[int] = []
        self.length: list[int] = []
        self.flat: list[Any] = []
        self.keypoint_owner: list[int] = []
        self.keypoints: list[Any] = []

    def add(self, value: Any) -> None:
        if type(value) is not dict:
            self.problem("annotation-unreadable", shown(value), f"annotation is {shown(value)}, not an object")
            value = {}
        get = value.get
        self.id.append(get("id"))
        self.image.append(get("image_id"))
        self.label.append(get("category_id"))
        self.box.append(get("bbox"))
        self.area.append(get("area", ABSENT_AREA))
        self.crowd.append(get("iscrowd", 0))
        segmentation = get("segmentation")
        if segmentation is None:
            self.segmentation.append(ABSENT)
        elif not segmentation:
            self.segmentation.append(EMPTY)
        elif type(segmentation) is list and type(segmentation[0]) is list:
            self.segmentation.append(POLYGON)
            for ring in segmentation:
                self.owner.append(self._n)
                self.length.append(len(ring) if type(ring) is list else -1)
                if type(ring) is list:
                    self.flat += ring
        else:
            self.segmentation.append(self._other_segmentation(segmentation))
        if "keypoints" in value:
            self._add_keypoints(value["keypoints"])
        self._n += 1
        if len(self.id) >= CHUNK:
            self.flush()

    def _other_segmentation(self, segmentation: Any) -> int:
        if isinstance(segmentation, dict):
            try:
                area, total = images.rle_area(segmentation)
                height, width = (int(side) for side in segmentation["size"])
            except (ValueError, TypeError, KeyError) as error:
                self.problem("annotation-unreadable", "RLE", f"segmentation is no readable RLE: {shown(error)}")
                return ABSENT
            if total != height * width:
                text = f"its runs add up to {total} pixels, and {height} x {width} are {height * width}"
                self.problem("annotation-unreadable", f"{total} pixels", f"segmentation is no readable RLE: {text}")
                return ABSENT
            return EMPTY if area == 0 else RLE
        if isinstance(segmentation, list) and all(isinstance(side, (int, float)) for side in segmentation):
            text = "segmentation is a list of numbers; COCO wants a list of polygons, [[x1, y1, ...]]"
            self.problem("annotation-unreadable", shown(segmentation), text)
            return ABSENT
        self.problem("annotation-unreadable", shown(segmentation), f"segmentation is {shown(segmentation)}")
        return ABSENT

    def _add_keypoints(self, keypoints: Any) -> None:
        if not isinstance(keypoints, list) or len(keypoints) % 3 or not all(map(_is_number, keypoints)):
            text = f"keypoints are {shown(keypoints)}; they should be x, y, visibility by turns"
            self.problem("annotation-unreadable", shown(keypoints), text)
            return
        for k in range(0, len(keypoints), 3):
            if keypoints[k + 2] > 0:
                self.keypoint_owner.append(self._n)
                self.keypoints.append(keypoints[k : k + 2])

    def problem(self, slug: str, value: str, message: str, index: int | None = None) -> None:
        self._counts[slug] += 1
        if self._counts[slug] <= _MOST_PROBLEMS:
            self._made.problems.append((slug, self._n if index is None else index, value, message))

    def number_of(self, value: Any) -> int:
        if type(value) is int and -(2**62) < value < 2**62 and value >= 0:
            return value
        key = repr(value)
        if key not in self._numbers:
            self._numbers[key] = -2 - len(self._numbers)
            self._made.id_text[self._numbers[key]] = shown(value)
        return self._numbers[key]

    def flush(self) -> None:
        first = self._n - len(self.id)
        if not self.id:
            return
        boxes, has_box = self._boxes(first)
        self._keep("id", self._integers(self.id, None, first))
        self._keep("image", self._integers(self.image, "image_id", first))
        self._keep("label", self._integers(self.label, "category_id", first))
        self._keep("box", boxes)
        self._keep("has_box", has_box)
        self._keep("area", self._areas(first))
        self._keep("crowd", np.array([flag == 1 for flag in self.crowd], dtype=bool))
        self._keep("segmentation", np.array(self.segmentation, dtype=np.int8))
        self._polygons()
        self._keep("keypoint_owner", np.array(self.keypoint_owner, dtype=np.int64))
        self._keep("keypoint_xy", np.array(self.keypoints, dtype=np.float64).reshape(-1, 2))
        self._clear()

    def _keep(self, name: str, column: Any) -> None:
        self._parts.setdefault(name, []).append(column)

    def columns(self) -> dict[str, Any]:
        empty = {
            "box": np.zeros((0, 4)), "area": np.zeros(0), "polygon_area": np.zeros(0), "keypoint_xy": np.zeros((0, 2)),
            "has_box": np.zeros(0, bool), "crowd": np.zeros(0, bool), "segmentation": np.zeros(0, np.int8),
        }  # fmt: skip
        names = ("id", "image", "label", "owner", "points", "keypoint_owner", *empty)
        made = {}
        for name in names:
            parts = self._parts.pop(name, [])
            made[name] = np.concatenate(parts) if parts else empty.get(name, np.zeros(0, np.int64))
        return made

    def _integers(self, values: list[Any], what: str | None, first: int) -> Any:
        """Return ids as integers; -1 for a missing one, which is a problem where `what` names it."""
        if set(map(type, values)) == {int}:
            try:
                made = np.array(values, dtype=np.int64)
                if int(made.min()) >= 0:
                    return made
            except OverflowError:
                pass
        column = []
        for index, value in enumerate(values):
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if value is None:
                if what == "category_id":
                    self.problem("label-missing", "null", "annotation has no category_id", first + index)
                elif what == "image_id":
                    self.problem("annotation-unreadable", "null", "annotation has no image_id", first + index)
                column.append(-1)
            else:
                column.append(self.number_of(value))
        return np.array(column, dtype=np.int64)

    def _boxes(self, first: int) -> tuple[Any, Any]:
        if set(map(type, self.box)) == {list}:
            try:
                made = np.array(self.box, dtype=np.float64)
                if made.ndim == 2 and made.shape[1] == 4:
                    return made, np.ones(len(made), bool)
            except (ValueError, TypeError):
                pass
        rows, has = [], []
        for index, box in enumerate(self.box):
            ok = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
            nulls = isinstance(box, list) and len(box) == 4 and all(_is_number(s) or s is None for s in box)
            if not ok and box not in (None, []) and not nulls:
                text = f"bbox is {shown(box)}, not four numbers [x, y, width, height]"
                self.problem("annotation-unreadable", shown(box), text, first + index)
            # Writers turn a NaN into null, as JSON has no other word for it.
            rows.append([float("nan") if side is None else float(side) for side in box] if ok or nulls else _NO_BOX)
            has.append(ok or nulls)
        return np.array(rows, dtype=np.float64).reshape(-1, 4), np.array(has, dtype=bool)

    def _areas(self, first: int) -> Any:
        if set(map(type, self.area)) <= {int, float}:
            return np.array(self.area, dtype=np.float64)
        made = []
        for index, area in enumerate(self.area):
            if area is not None and not _is_number(area):
                self.problem("annotation-unreadable", shown(area), f"area is {shown(area)}, no number", first + index)
            made.append(float(area) if _is_number(area) else ABSENT_AREA)
        return np.array(made)

    def _polygons(self) -> None:
        lengths = np.array(self.length, dtype=np.int64)
        owner = np.array(self.owner, dtype=np.int64)
        try:
            flat = np.array(self.flat, dtype=np.float64)
            if flat.ndim != 1 or (lengths < 0).any():
                raise ValueError
        except (ValueError, TypeError):
            owner, lengths, flat = self._readable_rings(owner, lengths)
        odd = lengths % 2 == 1
        if odd.any():
            for k in np.flatnonzero(odd).tolist():
                text = f"a polygon has {lengths[k]} coordinates, an odd number"
                self.problem("annotation-unreadable", f"{lengths[k]} coordinates", text, int(owner[k]))
            flat = flat[np.repeat(~odd, lengths)]
            owner, lengths = owner[~odd], lengths[~odd]
        with np.errstate(invalid="ignore", over="ignore"):
            areas = shoelace(flat.reshape(-1, 2), lengths // 2)
        self._keep("owner", owner)
        self._keep("points", lengths // 2)
        self._keep("polygon_area", areas)

    def _readable_rings(self, owner: Any, lengths: Any) -> tuple[Any, Any, Any]:
        """Leave out the rings that are not made of numbers, each with its problem."""
        kept, flat, at = [], [], 0
        for k, length in enumerate(lengths.tolist()):
            ring = self.flat[at : at + max(0, length)]
            at += max(0, length)
            if length >= 0 and all(map(_is_number, ring)):
                kept.append(k)
                flat += ring
            else:
                text = f"a polygon is not a list of numbers: {shown(ring)}"
                self.problem("annotation-unreadable", shown(ring), text, int(owner[k]))
        return owner[kept], lengths[kept], np.array(flat, dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
