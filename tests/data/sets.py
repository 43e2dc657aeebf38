"""Small data sets of every format, written from one description of images and objects."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "bird")


@dataclass
class Picture:
    """An image with its objects: (class, x1, y1, x2, y2) in whole pixels."""

    stem: str
    width: int = 64
    height: int = 48
    objects: list[tuple[int, float, float, float, float]] = field(default_factory=list)


def pictures(n: int = 4) -> list[Picture]:
    """Images that are all different, with sound boxes of every class."""
    return [
        Picture(f"im{k}", objects=[(c, 4 + k + 3 * c, 5 + 2 * c, 30 + k + 3 * c, 35 + 2 * c) for c in range(3)])
        for k in range(n)
    ]


def noise(width: int, height: int, seed: int, channels: int = 3) -> Any:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path: Path, width: int = 64, height: int = 48, seed: int | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = abs(hash(path.name)) % 2**31 if seed is None else seed
    Image.fromarray(noise(width, height, seed)).save(path, **options)
    return path


def write_images(folder: Path, all_pictures: Sequence[Picture], suffix: str = ".png") -> None:
    for k, picture in enumerate(all_pictures):
        write_image(folder / f"{picture.stem}{suffix}", picture.width, picture.height, seed=1000 + k)


def voc_text(picture: Picture, suffix: str = ".png", size: tuple[int, int] | None = None) -> str:
    width, height = size or (picture.width, picture.height)
    objects = "".join(
        f"  <object>\n    <name>{NAMES[c]}</name>\n    <bndbox><xmin>{x1:g}</xmin><ymin>{y1:g}</ymin>"
        f"<xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox>\n  </object>\n"
        for c, x1, y1, x2, y2 in picture.objects
    )
    return (
        f"<annotation>\n  <filename>{picture.stem}{suffix}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def write_voc(root: Path, all_pictures: Sequence[Picture]) -> Path:
    write_images(root / "JPEGImages", all_pictures)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for picture in all_pictures:
        (root / "Annotations" / f"{picture.stem}.xml").write_text(voc_text(picture))
    return root


def yolo_line(picture: Picture, place: int) -> str:
    c, x1, y1, x2, y2 = picture.objects[place]
    w, h = picture.width, picture.height
    return f"{c} {(x1 + x2) / 2 / w:.9f} {(y1 + y2) / 2 / h:.9f} {(x2 - x1) / w:.9f} {(y2 - y1) / h:.9f}"


def write_yolo(root: Path, all_pictures: Sequence[Picture], config: bool = True) -> Path:
    write_images(root / "images" / "train", all_pictures)
    labels = root / "labels" / "train"
    labels.mkdir(parents=True, exist_ok=True)
    for picture in all_pictures:
        lines = [yolo_line(picture, place) for place in range(len(picture.objects))]
        (labels / f"{picture.stem}.txt").write_text("".join(f"{line}\n" for line in lines))
    if config:
        (root / "data.yaml").write_text(f"train: images/train\nval: images/train\nnc: 3\nnames: {list(NAMES)}\n")
    return root


def coco_content(all_pictures: Sequence[Picture], suffix: str = ".png") -> dict[str, Any]:
    annotations = []
    for image_id, picture in enumerate(all_pictures):
        for c, x1, y1, x2, y2 in picture.objects:
            w, h = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": c + 1,
                    "bbox": [x1, y1, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    return {
        "images": [
            {"id": k, "file_name": f"{p.stem}{suffix}", "width": p.width, "height": p.height}
            for k, p in enumerate(all_pictures)
        ],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(NAMES)],
    }


def write_coco(root: Path, all_pictures: Sequence[Picture], content: dict[str, Any] | None = None) -> Path:
    write_images(root / "images", all_pictures)
    content = coco_content(all_pictures) if content is None else content
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def write_masks(root: Path, n: int = 4, n_classes: int = 3, void: int | None = None) -> Path:
    for k in range(n):
        write_image(root / "images" / f"im{k}.png", 32, 24, seed=k)
        mask = np.random.default_rng(k).integers(0, n_classes, (24, 32), dtype=np.uint8)
        if void is not None:
            mask[:2] = void
        (root / "masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"im{k}.png")
    return root
