"""Annotations with a file an image: Pascal VOC, XML read without entities, external files or network, and YOLO, a line
an object: class first, then a box (cx cy w h) or the points of a polygon, all relative to the size of the image.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whynan.data.annotations import BOX_LINE, POLYGON_LINE, Annotations, Keypoints, Polygons, shoelace
from whynan.data.finding import need
from whynan.data.units import Problem, shown

CORNERS = ("xmin", "ymin", "xmax", "ymax")
Facts = dict[str, Any]

_LIGHT = {"collect_ids": False, "remove_blank_text": True, "remove_comments": True, "remove_pis": True}
"""A tree without what nobody asks for is built in less time."""
_parser: Any = None
_etree: Any = None

BOX = 5
"""Numbers of a box line: class, cx, cy, w, h."""
ASSUMED = 640.0
"""Stands for width and height where the image is not known: boxes are relative, and only pixels depend on it."""
_BOM = b"\xef\xbb\xbf"


def _load() -> Any:
    global _parser, _etree
    if _etree is None:
        _etree = need("lxml.etree", "data", "reading XML annotations")
        # Entities stay as they are: nothing is expanded and nothing can grow; without huge_tree libxml2's limits hold.
        _parser = _etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, **_LIGHT)
    return _etree


def read_voc(data: bytes) -> Facts:
    """Return size ("w", "h"), "filename", class names ("c"), corners one after the other ("v"), whether
    they could be read ("ok"), problems ("p").

    A number that is missing is NaN, a name that is missing None.
    """
    etree = _load()
    facts: Facts = {"w": None, "h": None, "filename": None, "c": [], "v": [], "ok": [], "p": []}
    try:
        root = etree.fromstring(data, _parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        message = f"line {line}, column {column}: malformed XML: {shown(error.msg, 120)}"
        facts["p"].append(("annotation-unreadable", None, f"line {line}", message))
        return facts
    except ValueError as error:
        facts["p"].append(("annotation-unreadable", None, "XML", f"malformed XML: {shown(error, 120)}"))
        return facts
    if (b"DOCTYPE" in data or b"D\0O\0C" in data) and (bad := _entities(root)) is not None:
        facts["p"].append(bad)
        return facts
    if root.tag != "annotation":
        message = f"line {root.sourceline}: the root is <{shown(root.tag)}>, not <annotation>"
        facts["p"].append(("annotation-unreadable", None, f"<{shown(root.tag)}>", message))
        return facts
    is_plain = _read_plain_objects(root, facts)
    for child in root:
        tag = child.tag
        if tag == "object":
            if is_plain:
                break  # by custom the objects come last; what comes after them is read below
            _read_object(child, facts)
        elif tag == "size":
            facts["w"], facts["h"] = _integer(child.findtext("width")), _integer(child.findtext("height"))
        elif tag == "filename":
            facts["filename"] = (child.text or "").strip() or None
    if is_plain and facts["w"] is None and (size := root.find("size")) is not None:
        facts["w"], facts["h"] = _integer(size.findtext("width")), _integer(size.findtext("height"))
    if is_plain and facts["filename"] is None:
        facts["filename"] = (root.findtext("filename") or "").strip() or None
    return facts


_ORDER = ["object", "name", "xmin", "ymin", "xmax", "ymax"]
_PARTS = {"name": 0, "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}


def _read_plain_objects(root: Any, facts: Facts) -> bool:
    """Read objects that each have a name and four numbers and nothing twice, in one walk; False where any has not."""
    elements = list(root.iter(*_ORDER, "part"))
    tags, texts = [element.tag for element in elements], [element.text for element in elements]
    if tags == _ORDER * (len(tags) // len(_ORDER)):  # the usual order: no walk is needed
        return _take(texts[1::6], [side for k in range(2, len(texts), 6) for side in texts[k : k + 4]], facts)
    rows: list[list[Any]] = []
    row: list[Any] = [None] * 5  # takes the names that stand before the first object, as <owner> has one
    for tag, text in zip(tags, texts):
        if tag == "object":
            row = [None] * 5
            rows.append(row)
        elif tag == "part":
            return False
        else:
            place = _PARTS[tag]
            if row[place] is not None and rows:
                return False
            row[place] = text
    return _take([row[0] for row in rows], [text for row in rows for text in row[1:]], facts)


def _take(names: list[Any], sides: list[Any], facts: Facts) -> bool:
    try:
        values = list(map(float, sides))
        stripped = [name.strip() for name in names]
    except (TypeError, ValueError, AttributeError):
        return False
    if not all(stripped):
        return False
    facts["c"], facts["v"], facts["ok"] = stripped, values, [True] * len(stripped)
    return True


def _entities(root: Any) -> Problem | None:
    declared = root.getroottree().docinfo.internalDTD
    names = [entity.name for entity in declared.iterentities()] if declared is not None else []
    if not names:
        return None
    message = f"declares XML entities ({shown(', '.join(names))}), which are not expanded: they can grow without bound"
    return "annotation-unreadable", None, f"entity {shown(names[0])}", message


def _read_object(element: Any, facts: Facts) -> None:
    name, corners, is_read = None, None, False
    for child in element:
        tag = child.tag
        if tag == "name":
            name = (child.text or "").strip() or None
        elif tag == "bndbox":
            texts = {side.tag: side.text for side in child}
            try:
                corners = [float(texts[side]) for side in CORNERS]
                is_read = True
            except (KeyError, TypeError, ValueError):
                corners = _odd_corners(child, texts, len(facts["c"]), facts["p"])
    if corners is None:
        index, line = len(facts["c"]), element.sourceline
        facts["p"].append(
            ("annotation-unreadable", index, "no bndbox", f"line {line}: object {index} has no bounding box")
        )
    facts["c"].append(name)
    facts["v"] += corners or [math.nan] * 4
    facts["ok"].append(is_read)


def _odd_corners(box: Any, texts: dict[Any, str | None], index: int, problems: list[Problem]) -> list[float]:
    for side in CORNERS:
        text = texts.get(side)
        try:
            float(text or "")
        except ValueError:
            what = f"<{side}> is missing" if text is None else f"<{side}> is {shown(text)!r}, no number"
            problems.append(("annotation-unreadable", index, shown(text), f"line {box.sourceline}: {what}"))
    return [math.nan] * 4


def _integer(text: str | None) -> int | None:
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return None


def voc_table(
    files: Sequence[str], images: Sequence[str | None], sizes: Sequence[tuple[int, int] | None], facts: Sequence[Facts]
) -> tuple[Annotations, list[str]]:
    """Return the objects of many files as one table, and the class names that its labels count in.

    Where the size of an image is not known, the one that the file itself gives takes its place.
    """
    per_file = np.array([len(fact["c"]) for fact in facts], dtype=np.int64)
    file: Any = np.repeat(np.arange(len(files)), per_file)
    starts = np.cumsum(per_file) - per_file
    raw = np.array([side for fact in facts for side in fact["v"]], dtype=np.float64).reshape(-1, 4)
    classes: dict[str | None, int] = {None: -1}
    label = np.array(
        [classes.setdefault(name, len(classes) - 1) for fact in facts for name in fact["c"]], dtype=np.int64
    )
    told = [
        size or ((fact["w"], fact["h"]) if fact["w"] and fact["h"] else (math.nan, math.nan))
        for size, fact in zip(sizes, facts)
    ]
    names = [name or "" for name in images]
    made = Annotations(
        layout="xyxy",
        files=files,
        images=names,
        file=file,
        number=np.arange(len(file)) - starts[file],
        image=np.where([bool(name) for name in names], np.arange(len(names)), -1)[file] if len(file) else file,
        size=np.array(told, dtype=np.float64).reshape(-1, 2)[file],
        raw=raw,
        boxes=raw,
        # A box that could not be read is a problem of its own already; a "nan" that is written there is a box.
        has_box=np.array([ok for fact in facts for ok in fact["ok"]], dtype=bool),
        label=label,
        crowd=np.zeros(len(file), bool),
    )
    return made, [str(name) for name in list(classes)[1:]]


def read_yolo(data: bytes) -> Facts:
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


def yolo_table(
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
