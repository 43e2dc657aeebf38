"""A repaired copy of all annotation files of a set, in a folder of its own."""

import shutil
from collections import defaultdict
from pathlib import Path

from whynan.data.finding import Finding
from whynan.data.fix import coco, voc, yolo
from whynan.data.fix.changes import Changes, Orders
from whynan.data.readers import coco as coco_reader
from whynan.data.readers import images
from whynan.data.readers.json_stream import JsonError
from whynan.data.result import Result
from whynan.data.storage import Storage, locate
from whynan.errors import OutputError


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
            place.write_bytes(voc.repair(storage.read(name), orders, changes, sizes))
        else:
            place.write_bytes(yolo.repair(storage.read(name), orders, changes))
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
        coco.repair(file, out, orders, changes, bare, int(ids.max(initial=0)) + 1)


def _real_sizes(storage: Storage, findings: list[Finding]) -> dict[str, tuple[int, int]]:
    """Return the sizes of the images whose annotation gives another one."""
    found: dict[str, tuple[int, int]] = {}
    for name in {f.image for f in findings if f.check == "size-mismatch" and f.fixable and f.image}:
        try:
            with storage.open(name) as file, images.open_image(file) as image:
                found[name] = image.size
        except Exception:  # an image that does not open has no size to write
            continue
    return found
