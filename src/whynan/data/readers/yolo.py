"""YOLO label files: a line for each object, class first, then a box (cx cy w h) or the points of a polygon, all
relative to the size of the image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whynan.data.annotations import BOX_LINE, POLYGON_LINE, Annotations, Keypoints, Polygons, shoelace
from whynan.data.readers.problems import Problem, shown

BOX = 5
"""Numbers of a box line: class, cx, cy, w, h."""
ASSUMED = 640.0
"""Stands for width and height where the image is not known: boxes are relative, and only pixels depend on it."""
_BOM = b"\xef\xbb\xbf"

Facts = dict[str, Any]


def read(data: bytes) -> Facts:
    """Return the numbers of all lines one after the other ("v"), how many each line has ("n"), the index of each line
    ("i") and what could not be read ("p")."""
    rows = [line.split() for line in data.removeprefix(_BOM).splitlines()]
    try:
        if all(rows):
            values = [float(token) for row in rows for token in row]
            return {"v": values, "n": list(map(len, rows)), "i": None, "p": []}
    except ValueError:
        pass
    return _read_slowly(data)


def _read_slowly(data: bytes) -> Facts:
    values: list[float] = []
    counts: list[int] = []
    indices: list[int] = []
    problems: list[Problem] = []
    if b"\0" in data:
        message = "holds NUL bytes: it is no text in UTF-8 (saved as UTF-16?)"
        return {"v": [], "n": [], "i": [], "p": [("annotation-unreadable", None, "NUL bytes", message)]}
    for index, line in enumerate(data.removeprefix(_BOM).splitlines()):
        tokens = line.split()
        if not tokens:
            continue
        try:
            numbers = [float(token) for token in tokens]
        except ValueError:
            message = f"line {index + 1} is not made of numbers: {shown(line)!r}"
            problems.append(("annotation-unreadable", index, shown(line), message))
            continue
        values += numbers
        counts.append(len(numbers))
        indices.append(index)
    return {"v": values, "n": counts, "i": indices, "p": problems}


def table(
    files: Sequence[str],
    images: Sequence[str | None],
    sizes: Sequence[tuple[int, int] | None],
    facts: Sequence[Facts],
    keypoint_shape: tuple[int, int] | None = None,
) -> tuple[Annotations, list[tuple[int, Problem]]]:
    """Return the annotations of many files as one table, and (number of the file, problem) for lines that make no
    sense.

    `sizes` are the sizes of the images in pixels, None where they are not known.
    """
    values = np.array([number for fact in facts for number in fact["v"]], dtype=np.float64)
    counts = np.array([count for fact in facts for count in fact["n"]], dtype=np.int64)
    per_file = np.array([len(fact["n"]) for fact in facts], dtype=np.int64)
    file: Any = np.repeat(np.arange(len(files)), per_file)
    index = np.concatenate([_indices(fact) for fact in facts]) if facts else np.zeros(0, np.int64)
    start = np.cumsum(counts) - counts
    label = values[start] if len(start) else np.zeros(0)

    n_pose = 0 if keypoint_shape is None else BOX + keypoint_shape[0] * keypoint_shape[1]
    is_box = (counts == BOX) | (counts == n_pose)
    is_polygon = (counts % 2 == 1) & (counts >= 3) & ~is_box
    with np.errstate(invalid="ignore"):
        is_class = (label == np.floor(label)) & (np.abs(label) < 2**31)
    keep = (is_box | is_polygon) & is_class
    problems = [
        (int(file[row]), _odd_line(int(counts[row]), float(label[row]), int(index[row])))
        for row in np.flatnonzero(~keep).tolist()
    ]
    file, index, start, counts, label = file[keep], index[keep], start[keep], counts[keep], label[keep]
    is_box, is_polygon = is_box[keep], is_polygon[keep]

    n = len(file)
    size = np.array([pair or (ASSUMED, ASSUMED) for pair in sizes], dtype=np.float64).reshape(-1, 2)[file]
    raw = np.full((n, 4), np.nan)
    raw[is_box] = values[start[is_box, None] + np.arange(1, 5)]
    polygons = _polygons(values, start, counts, is_polygon, size, raw)
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = np.concatenate([raw[:, :2] - raw[:, 2:] / 2, raw[:, :2] + raw[:, 2:] / 2], axis=1) * np.tile(size, 2)
        # The sides as they are written decide about a size of 0, not the rounding of their sums.
        boxes[:, 2:] = np.where(raw[:, 2:] == 0, boxes[:, :2], boxes[:, 2:])
    names = [name or "" for name in images]
    made = Annotations(
        layout="cxcywh",
        files=files,
        images=names,
        file=file,
        number=index,
        image=np.where([bool(name) for name in names], np.arange(len(names)), -1)[file] if n else file,
        size=size,
        raw=raw,
        boxes=boxes,
        has_box=is_box | (counts >= 7),
        label=label.astype(np.int64),
        crowd=np.zeros(n, bool),
        line_kind=np.where(is_box, BOX_LINE, POLYGON_LINE),
        polygons=polygons,
        keypoints=_keypoints(values, start, counts == n_pose, size, keypoint_shape),
    )
    return made, problems


def _indices(fact: Facts) -> Any:
    return np.arange(len(fact["n"])) if fact["i"] is None else np.array(fact["i"], dtype=np.int64)


def _odd_line(count: int, label: float, index: int) -> Problem:
    if not (math.isfinite(label) and label == math.floor(label) and abs(label) < 2**31):
        return "annotation-unreadable", index, f"{label:g}", f"line {index + 1}: {label:g} is no class index"
    hint = {
        1: "a class and no coordinates",
        6: "a class, a box and one more (a prediction with its confidence?)",
    }.get(count, "a class and an odd number of coordinates")
    message = f"line {index + 1} has {count} numbers: {hint}; 5 make a box, an odd number from 7 a polygon"
    return "annotation-unreadable", index, f"{count} numbers", message


def _polygons(values: Any, start: Any, counts: Any, is_polygon: Any, size: Any, raw: Any) -> Polygons | None:
    """Return the polygons, areas in square pixels, and write the box around each into `raw`."""
    owner = np.flatnonzero(is_polygon)
    if not len(owner):
        return None
    n_points = (counts[owner] - 1) // 2
    first: Any = np.repeat(start[owner] + 1, n_points)
    within = np.arange(int(n_points.sum())) - np.repeat(np.cumsum(n_points) - n_points, n_points)
    points = np.stack([values[first + 2 * within], values[first + 2 * within + 1]], axis=1)
    places = np.cumsum(n_points) - n_points
    low, high = np.minimum.reduceat(points, places), np.maximum.reduceat(points, places)
    raw[owner] = np.concatenate([(low + high) / 2, high - low], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        area = shoelace(points, n_points) * size[owner].prod(axis=1)
    return Polygons(owner, n_points, area)


def _keypoints(values: Any, start: Any, is_pose: Any, size: Any, shape: tuple[int, int] | None) -> Keypoints | None:
    owner = np.flatnonzero(is_pose)
    if shape is None or not len(owner):
        return None
    n, dims = shape
    points = values[start[owner, None] + BOX + np.arange(n * dims)].reshape(len(owner), n, dims)
    labelled = points[..., 2] > 0 if dims == 3 else (points[..., :2] != 0).any(axis=2)
    rows = np.repeat(owner, n).reshape(len(owner), n)[labelled]
    return Keypoints(rows, points[..., :2][labelled] * size[rows])
