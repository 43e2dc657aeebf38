"""What `whynan data` costs beside the bare loop that reads the same files, in one run on one machine.

python benchmarks/data.py [--rounds 5] [--workers N] [--ray] [images coco voc yolo again memory]

Each ratio is within a round, bare and whynan by turns; the median of the rounds is shown, by the
clock and in processor time, which other programs disturb less. `images`: images a second
beside Pillow's decoding alone, same number of processes. `coco`, `voc`, `yolo`: time for annotations alone beside
json.load, ElementTree (and lxml), and split-and-float, in one process. `again`: a second look at unchanged files.
`memory`: the largest resident set of a look at 1 000 000 annotations.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from lxml import etree
from PIL import Image

from whynan.data.engine import default_workers
from whynan.data.finding import Options
from whynan.data.scan import scan

N_IMAGES = 1200
N_COCO = 200_000
N_FILES = 4000
OBJECTS = 12


def write_images(root: Path) -> None:
    """Photograph-like JPEGs of 640 x 480: smooth noise with some grain."""
    rng = np.random.default_rng(0)
    for k in range(60):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 6, (480, 640, 3))
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(
            root / f"{k:04}.jpg", quality=88
        )
    for k in range(60, N_IMAGES):
        shutil.copy(root / f"{k % 60:04}.jpg", root / f"{k:04}.jpg")
        with (root / f"{k:04}.jpg").open("ab") as file:
            file.write(bytes(k % 251 + 1))  # behind the end of the image: no two files are the same


def write_coco(root: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    boxes = np.round(rng.uniform([0, 0, 8, 8], [400, 300, 200, 150], (n, 4)), 2).tolist()
    with (root / "instances.json").open("w") as file:
        circle = [(math.cos(t / 2), math.sin(t / 2)) for t in range(11)]
        categories = [{"id": c, "name": str(c)} for c in range(80)]
        images = [{"id": k, "file_name": f"{k}.jpg", "width": 640, "height": 480} for k in range(n // 8 + 1)]
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}')
        file.write(', "annotations": [')
        for k, (x, y, w, h) in enumerate(boxes):
            ring = [round(v, 2) for c, d in circle for v in (x + w / 2 * (1 + c), y + h / 2 * (1 + d))]
            row = {
                "id": k + 1,
                "image_id": k // 8,
                "category_id": k % 80,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
            file.write(f"{', ' if k else ''}{json.dumps(row | {'segmentation': [ring]})}")
        file.write("]}")


def write_voc(root: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(N_FILES):
        objects = "".join(
            f"\t<object>\n\t\t<name>c{c}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n"
            f"\t\t<bndbox>\n\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n"
            f"\t\t\t<xmax>{x + 90}</xmax>\n\t\t\t<ymax>{y + 70}</ymax>\n"
            "\t\t</bndbox>\n\t</object>\n"
            for c, (x, y) in enumerate(rng.integers(0, 390, (OBJECTS, 2)).tolist())
        )
        head = f"<filename>{k}.jpg</filename>\n<size><width>640</width><height>480</height><depth>3</depth></size>\n"
        (root / f"{k}.xml").write_text(f"<annotation>\n{head}{objects}</annotation>\n")


def write_yolo(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "labels").mkdir()
    (root / "images").mkdir()
    for k in range(N_FILES):
        rows = rng.uniform(0.2, 0.3, (OBJECTS, 4)).tolist()
        (root / "labels" / f"{k}.txt").write_text(
            "".join(f"{c} {' '.join(f'{v:.6f}' for v in row)}\n" for c, row in enumerate(rows))
        )
        (root / "images" / f"{k}.jpg").touch()


def decode(names: list[str]) -> int:
    for name in names:
        with Image.open(name) as image:
            image.load()
    return len(names)


def bare_images(root: Path, workers: int) -> None:
    names = sorted(map(str, root.glob("*.jpg")))
    chunks = [names[start : start + 32] for start in range(0, len(names), 32)]
    if workers == 1:
        for chunk in chunks:
            decode(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        assert sum(pool.map(decode, chunks)) == len(names)


def bare_coco(root: Path) -> None:
    with (root / "instances.json").open() as file:
        json.load(file)


def bare_voc(root: Path) -> None:
    """By the parser of the standard library, as torchvision's VOCDetection does it."""
    for name in sorted(os.listdir(root)):
        ElementTree.parse(root / name)


def bare_lxml(root: Path) -> None:
    """By the parser that whynan uses, the fastest there is."""
    for name in sorted(os.listdir(root)):
        with open(root / name, "rb") as file:
            etree.fromstring(file.read())


def bare_yolo(root: Path) -> None:
    for name in sorted(os.listdir(root / "labels")):
        with open(root / "labels" / name, "rb") as file:
            [[float(token) for token in line.split()] for line in file.read().splitlines()]


def look(root: Path, workers: int, pixels: bool = True, engine: str = "local") -> None:
    result = scan(str(root), Options(pixels=pixels), workers=workers, is_cached=False, engine=engine)  # type: ignore[arg-type]
    assert result.is_clean, [finding.message for finding in result.findings[:3]]


def cpu() -> float:
    """Return the processor time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Return how long something takes, and how much processor time."""
    started, used = time.perf_counter(), cpu()
    run()
    return time.perf_counter() - started, cpu() - used


def compare(name: str, bare: Callable[[], None], ours: Callable[[], None], rounds: int, is_speed: bool) -> None:
    pairs = []
    for k in range(rounds):
        # Whoever goes second finds the files in memory: they take turns.
        first, second = (bare, ours) if k % 2 == 0 else (ours, bare)
        times = {first: seconds(first), second: seconds(second)}
        pairs.append((times[bare], times[ours]))
    what = "of the bare loop's speed" if is_speed else "times the bare parse"
    for clock, kind in ((0, "by the clock"), (1, "processor time")):
        ratios = sorted((b[clock] / o[clock]) if is_speed else (o[clock] / b[clock]) for b, o in pairs)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        took = ", ".join(f"{statistics.median(column[clock] for column in pair):.2f} s" for pair in zip(*pairs))
        print(f"{name:9} {statistics.median(ratios):5.2f} {what}, {kind} ({spread}; {took})", flush=True)


def compare_annotations(name: str, bare: Callable[[Path], None], place: Path, rounds: int) -> None:
    compare(name, lambda: bare(place), lambda: look(place, 1, pixels=False), rounds, False)


def measure_again(root: Path) -> None:
    os.environ["WHYNAN_CACHE"] = str(root / "cache")
    first = scan(str(root / "images"), workers=1)
    second = scan(str(root / "images"), workers=1)
    print(
        f"again    {second.n_read} of {first.n_read} files read, "
        f"{second.seconds / first.seconds:.3f} times the first look"
    )


def measure_memory(root: Path) -> None:
    write_coco(root, 1_000_000)
    size = (root / "instances.json").stat().st_size / 1e6
    code = (
        "import resource, sys\nfrom whynan.data.scan import scan\n"
        "result = scan(sys.argv[1], workers=1, is_cached=False)\nassert result.statistics.n_annotations == 1_000_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    print(f"memory    {done.stdout.strip()} MiB for 1 000 000 annotations with polygons, a file of {size:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["images", "coco", "voc", "yolo", "again", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--ray", action="store_true", help="images on a local Ray cluster too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="whynan-bench-") as place:
        root = Path(place)
        for name in ("images", "coco", "voc", "yolo", "million"):
            (root / name).mkdir()
        run(options, root)


def run(options: argparse.Namespace, root: Path) -> None:
    rounds, workers = options.rounds, options.workers
    if {"images", "again"} & set(options.what):
        write_images(root / "images")
    if "images" in options.what:
        for n in sorted({1, workers}):
            compare(
                f"images/{n}",
                lambda n=n: bare_images(root / "images", n),
                lambda n=n: look(root / "images", n),
                rounds,
                True,
            )
        if options.ray:
            ours = lambda: look(root / "images", workers, engine="ray")  # noqa: E731
            compare("ray", lambda: bare_images(root / "images", workers), ours, 1, True)
    if "coco" in options.what:
        write_coco(root / "coco", N_COCO)
        compare_annotations("coco", bare_coco, root / "coco", rounds)
    if "voc" in options.what:
        write_voc(root / "voc")
        compare_annotations("voc", bare_voc, root / "voc", rounds)
        compare_annotations("voc/lxml", bare_lxml, root / "voc", rounds)
    if "yolo" in options.what:
        write_yolo(root / "yolo")
        compare_annotations("yolo", bare_yolo, root / "yolo", rounds)
    if "again" in options.what:
        measure_again(root)
    if "memory" in options.what:
        measure_memory(root / "million")


if __name__ == "__main__":
    main()
