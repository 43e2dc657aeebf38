"""Repairs of YOLO label files: lines are dropped, sides turned positive, boxes and points clipped to 0..1."""

from whynan.data.fix.changes import DROPPED, Changes, Orders

_LOST = {"polygon-too-short", "polygon-zero-area"}


def repair(data: bytes, orders: Orders, changes: Changes) -> bytes:
    """Return the repaired content of a label file."""
    kept = []
    for index, line in enumerate(data.splitlines(keepends=True)):
        slugs = orders.slugs(index)
        if slugs & (DROPPED | _LOST):
            for slug in sorted(slugs & (DROPPED | _LOST)):
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
