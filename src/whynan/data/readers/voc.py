"""Pascal VOC: an XML file for each image, read by lxml without entities, external files or network."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.extra import need
from whynan.data.readers.problems import Problem, shown

CORNERS = ("xmin", "ymin", "xmax", "ymax")
Facts = dict[str, Any]

_LIGHT = {"collect_ids": False, "remove_blank_text": True, "remove_comments": True, "remove_pis": True}
"""A tree without what nobody asks for is built in less time."""
_parser: Any = None
_etree: Any = None


def _load() -> Any:
    global _parser, _etree
    if _etree is None:
        _etree = need("lxml.etree", "data", "reading XML annotations")
        # Entities stay as they are: nothing is expanded and nothing can grow; without huge_tree libxml2's limits hold.
        _parser = _etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, **_LIGHT)
    return _etree


def read(data: bytes) -> Facts:
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


def table(
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
