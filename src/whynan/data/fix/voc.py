"""Repairs of Pascal VOC files: objects are dropped, corners put in order and clipped, the size set right."""

from typing import Any

from whynan.data.extra import need
from whynan.data.fix.changes import DROPPED, Changes, Orders


def repair(data: bytes, orders: Orders, changes: Changes, sizes: dict[str, tuple[int, int]]) -> bytes:
    """Return the repaired content of a file; `sizes` has the real sizes of images."""
    etree = need("lxml.etree", "data", "reading XML annotations")
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)
    root = etree.fromstring(data, parser)
    for finding in orders.of_file():
        if finding.check == "size-mismatch" and finding.image in sizes:
            _set_size(etree, root, sizes[finding.image])
            changes.done["sizes set to that of the image: size-mismatch"] += 1
    size = _size(root)
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


def _size(root: Any) -> tuple[float, float] | None:
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
