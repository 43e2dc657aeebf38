"""One fault put into a sound set is found where it was put, in every format that can hold it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data import sets
from tests.data.conftest import checks, look, told

W, H = 64, 48
settings.register_profile("sets", max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("sets")

places = st.tuples(st.integers(0, 3), st.integers(0, 2))
"""Image and object that the fault is put into."""


def fresh(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("set")


# Boxes --------------------------------------------------------------------------------------------------------------

BOXES: dict[str, tuple[st.SearchStrategy[tuple[float, float, float, float]], str]] = {
    "no width": (st.integers(1, W - 1).map(lambda x: (x, 3, x, 20)), "box-zero-size"),
    "no height": (st.integers(1, H - 1).map(lambda y: (3, y, 20, y)), "box-zero-size"),
    "a point": (st.just((9, 9, 9, 9)), "box-zero-size"),
    "negative": (st.integers(1, 20).map(lambda n: (30, 10, 30 - n, 20)), "box-negative-size"),
    "right of the image": (st.integers(0, 50).map(lambda n: (W + n, 5, W + n + 9, 20)), "box-outside-image"),
    "above the image": (st.integers(1, 50).map(lambda n: (5, -n - 9, 20, -n)), "box-outside-image"),
    "beyond the border": (st.integers(1, 40).map(lambda n: (W - 9, 5, W + n, 20)), "box-partly-outside-image"),
    "before the border": (st.integers(1, 40).map(lambda n: (-n, 5, 20, 20)), "box-partly-outside-image"),
    "tiny": (st.floats(0.05, 0.9).map(lambda side: (7, 7, 7 + side, 20)), "box-too-small"),
    "not a number": (st.sampled_from([(math.nan, 3, 9, 9), (3, 3, math.inf, 9)]), "box-nonfinite"),
}
WRITERS: dict[str, Callable[[Path, list[sets.Picture]], Path]] = {
    "voc": sets.write_voc,
    "yolo": sets.write_yolo,
    "coco": sets.write_coco,
}


def place_of(format_: str, image: int, position: int) -> tuple[str, int]:
    if format_ == "coco":
        return "annotations.json", image * 3 + position
    return (f"Annotations/im{image}.xml" if format_ == "voc" else f"labels/train/im{image}.txt"), position


@pytest.mark.parametrize("fault", BOXES)
@pytest.mark.parametrize("format_", sorted(WRITERS))
@given(data=st.data(), place=places)
def test_box(
    format_: str, fault: str, data: st.DataObject, place: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    strategy, check = BOXES[fault]
    pictures = sets.pictures()
    image, position = place
    label = pictures[image].objects[position][0]
    pictures[image].objects[position] = (label, *data.draw(strategy))
    result = look(WRITERS[format_](fresh(tmp_path_factory), pictures))
    found = {each for each in told(result) if each[0] != "class-unused"}
    expected = (check, *place_of(format_, image, position))
    assert expected in found
    # Nothing else is wrong in the set; a fault may well be two things at once in its own place.
    assert {each[1:] for each in found} == {expected[1:]} | {(file, None) for _, file, n in found if n is None}
    (finding,) = [f for f in result.findings if f.check == check]
    assert finding.severity == (
        "error" if check not in ("box-too-small", "box-partly-outside-image") else finding.severity
    )
    assert finding.value and finding.cause


@pytest.mark.parametrize("format_", sorted(WRITERS))
@given(place=places)
def test_box_twice(format_: str, place: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> None:
    pictures = sets.pictures()
    image, position = place
    pictures[image].objects.append(pictures[image].objects[position])
    result = look(WRITERS[format_](fresh(tmp_path_factory), pictures))
    file, _ = place_of(format_, image, 0)
    n = 3 if format_ != "coco" else image * 3 + 3
    assert told(result) == {("box-duplicate", file, n)}


def test_label_beyond_the_names_of_yolo(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path, sets.pictures())
    place = root / "labels/train/im2.txt"
    place.write_text(place.read_text().replace("1 0.", "3 0.", 1))
    assert ("label-out-of-range", "labels/train/im2.txt", 1) in told(look(root), "error")


def test_negative_label_of_yolo_without_names(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path, sets.pictures(), config=False)
    (root / "labels/train/im2.txt").write_text("0 0.5 0.5 0.2 0.2\n-1 0.5 0.5 0.3 0.3\n")
    assert told(look(root), "error") == {("label-out-of-range", "labels/train/im2.txt", 1)}


def test_name_that_is_not_given(tmp_path: Path) -> None:
    root = sets.write_voc(tmp_path, sets.pictures())
    found = told(look(root, names=("cat", "dog"), classes=2), "error")
    assert found == {("label-out-of-range", f"Annotations/im{k}.xml", 2) for k in range(4)}


@pytest.mark.parametrize("way", ["corners", "pixels"])
def test_another_convention_of_yolo(way: str, tmp_path: Path) -> None:
    pictures = sets.pictures()
    root = sets.write_yolo(tmp_path, pictures)
    for picture in pictures:
        lines = []
        for c, x1, y1, x2, y2 in picture.objects:
            shown = (x1 / W, y1 / H, x2 / W, y2 / H)
            shown = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) if way == "pixels" else shown
            lines.append(" ".join(map(str, (c, *shown))))
        (root / "labels/train" / f"{picture.stem}.txt").write_text("\n".join(lines))
    (finding,) = [f for f in look(root).findings if f.check == "box-format-mismatch"]
    assert finding.severity == "error"
    assert way in finding.message


def test_corners_in_coco(tmp_path: Path) -> None:
    pictures = sets.pictures()
    for picture in pictures[1:]:
        picture.objects = [(0, 30, 20, 60, 45), (1, 5, 5, 40, 30)]
    content = sets.coco_content(pictures)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    (finding,) = [
        f
        for f in look(sets.write_coco(tmp_path, sets.pictures(), content)).findings
        if f.check == "box-format-mismatch"
    ]
    assert "corners" in finding.message


# COCO ---------------------------------------------------------------------------------------------------------------


def set_key(key: str, value: Any) -> Callable[[dict[str, Any], int], None]:
    def change(content: dict[str, Any], row: int) -> None:
        content["annotations"][row][key] = value

    return change


def copy_id(content: dict[str, Any], row: int) -> None:
    content["annotations"][row]["id"] = content["annotations"][0]["id"]


COCO: dict[str, tuple[Callable[[dict[str, Any], int], None], str]] = {
    "area of zero": (set_key("area", 0), "area-not-positive"),
    "area below zero": (set_key("area", -3.5), "area-not-positive"),
    "area not a number": (set_key("area", math.nan), "area-not-positive"),
    "no polygon": (set_key("segmentation", []), "segmentation-empty"),
    "polygon of two points": (set_key("segmentation", [[1, 2, 3, 4]]), "polygon-too-short"),
    "polygon without points": (set_key("segmentation", [[]]), "polygon-too-short"),
    "polygon on a line": (set_key("segmentation", [[1, 1, 5, 5, 9, 9]]), "polygon-zero-area"),
    "odd polygon": (set_key("segmentation", [[1, 1, 5, 5, 9, 9, 3]]), "annotation-unreadable"),
    "words in a polygon": (set_key("segmentation", [[1, 1, 5, "x", 9, 9]]), "annotation-unreadable"),
    "flat polygon": (set_key("segmentation", [1, 1, 5, 5, 9, 2]), "annotation-unreadable"),
    "empty mask": (set_key("segmentation", {"size": [H, W], "counts": [W * H]}), "segmentation-empty"),
    "runs too short": (set_key("segmentation", {"size": [H, W], "counts": [5, 5]}), "annotation-unreadable"),
    "unknown category": (set_key("category_id", 9), "label-out-of-range"),
    "no category": (set_key("category_id", None), "label-missing"),
    "unknown image": (set_key("image_id", 77), "image-missing"),
    "words for a box": (set_key("bbox", "1,2,3,4"), "annotation-unreadable"),
    "three sides": (set_key("bbox", [1, 2, 3]), "annotation-unreadable"),
    "keypoint outside": (set_key("keypoints", [1, 1, 2, 900, 5, 2, 0, 0, 0]), "keypoint-outside-image"),
    "broken keypoints": (set_key("keypoints", [1, 1]), "annotation-unreadable"),
    "id used twice": (copy_id, "duplicate-annotation-id"),
}


@pytest.mark.parametrize("fault", COCO)
@given(row=st.integers(1, 11))
def test_coco(fault: str, row: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    change, check = COCO[fault]
    content = sets.coco_content(sets.pictures())
    change(content, row)
    found = {
        each
        for each in told(look(sets.write_coco(fresh(tmp_path_factory), sets.pictures(), content)))
        if each[2] is not None
    }
    assert found == {(check, "annotations.json", row)}


def test_coco_images(tmp_path: Path) -> None:
    pictures = sets.pictures(5)
    content = sets.coco_content(pictures[:4])
    content["images"][1]["width"] = 999
    content["images"][2].update(width=0, height=0)
    content["images"].append({"id": 0, "file_name": "im4.png", "width": W, "height": H})
    content["images"].append({"id": 50, "file_name": "gone.png", "width": W, "height": H})
    root = sets.write_coco(tmp_path, pictures, content)
    sets.write_image(root / "images" / "stray.png")
    found = {(f.check, f.file, f.value) for f in look(root).findings if not f.check.startswith("box")}
    assert found == {
        ("size-mismatch", "annotations.json", "999x48"),
        ("size-mismatch", "annotations.json", "0x0"),
        ("duplicate-image-id", "annotations.json", "0"),
        ("image-missing", "annotations.json", "gone.png"),
        ("image-without-annotations", "annotations.json", "gone.png"),
        ("annotation-missing", "images/stray.png", "no entry"),
    }


def test_crowds_and_gaps_are_notes(tmp_path: Path) -> None:
    content = sets.coco_content(sets.pictures())
    content["annotations"][2]["iscrowd"] = 1
    content["categories"].append({"id": 90, "name": "toothbrush"})
    result = look(sets.write_coco(tmp_path, sets.pictures(), content))
    assert checks(result, "note") == checks(result) == {"box-crowd", "label-ids-not-contiguous", "class-unused"}


# Files --------------------------------------------------------------------------------------------------------------


def test_size_tag_of_voc(tmp_path: Path) -> None:
    pictures = sets.pictures()
    root = sets.write_voc(tmp_path, pictures)
    (root / "Annotations/im0.xml").write_text(sets.voc_text(pictures[0], size=(0, 0)))
    (root / "Annotations/im1.xml").write_text(sets.voc_text(pictures[1], size=(H, W)))
    found = told(look(root), "error")
    assert found == {("size-mismatch", f"Annotations/im{k}.xml", None) for k in (0, 1)}


def test_files_without_partner(tmp_path: Path) -> None:
    for name, write in (("voc", sets.write_voc), ("yolo", sets.write_yolo)):
        root = write(tmp_path / name, sets.pictures())
        image, label = ("JPEGImages", "Annotations") if name == "voc" else ("images/train", "labels/train")
        (root / image / "im1.png").unlink()
        suffix = "xml" if name == "voc" else "txt"
        (root / label / f"im2.{suffix}").unlink()
        assert told(look(root)) == {
            ("image-missing", f"{label}/im1.{suffix}", None),
            ("annotation-missing", f"{image}/im2.png", None),
        }


def test_voc_image_by_the_name_in_the_file(tmp_path: Path) -> None:
    root = sets.write_voc(tmp_path, sets.pictures())
    (root / "Annotations/im1.xml").rename(root / "Annotations/other.xml")
    assert "image-missing" not in checks(look(root))


def test_empty_files(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path / "yolo", sets.pictures())
    (root / "labels/train/im1.txt").write_text("")
    assert told(look(root)) == {("annotation-file-empty", "labels/train/im1.txt", None)}
    assert checks(look(root), "note") == {"annotation-file-empty"}
    root = sets.write_voc(tmp_path / "voc", sets.pictures())
    (root / "Annotations/im1.xml").write_text("")
    (root / "Annotations/im2.xml").write_text(
        "<annotation><size><width>64</width><height>48</height></size></annotation>"
    )
    assert told(look(root)) == {
        ("annotation-unreadable", "Annotations/im1.xml", None),
        ("image-without-annotations", "Annotations/im2.xml", None),
    }


def test_lines_of_yolo(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path, sets.pictures())
    lines = [
        "0 0.5 0.5 0.2",
        "1 0.5 0.5 0.2 0.2 0.9",
        "x 0.5 0.5 0.2 0.2",
        "",
        "1.5 0.5 0.5 0.2 0.2",
        "2 0.5 0.5 0.2 0.2",
    ]
    (root / "labels/train/im1.txt").write_text("\n".join(lines))
    found = told(look(root), "error")
    assert found == {("annotation-unreadable", "labels/train/im1.txt", k) for k in (0, 1, 2, 4)}


def test_polygons_of_yolo(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path, sets.pictures())
    for k in range(4):
        (root / f"labels/train/im{k}.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.2 0.2 0.6 0.2 0.6 0.7 0.3 0.4\n")
    (root / "labels/train/im1.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.1 0.1\n2 0.1 0.1 0.2 0.2 0.3 0.3\n")
    (root / "labels/train/im2.txt").write_text(
        "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.2 0.2 0.6 0.2 0.6 0.7 0.3 0.4\n2 0.5 0.5 0.2 0.2\n"
    )
    found = told(look(root))
    assert found == {
        ("polygon-too-short", "labels/train/im1.txt", 1),
        ("polygon-zero-area", "labels/train/im1.txt", 2),
        ("mixed-box-and-polygon-lines", "labels/train/im2.txt", 2),
    }


def test_keypoints_of_yolo(tmp_path: Path) -> None:
    root = sets.write_yolo(tmp_path, sets.pictures())
    (root / "data.yaml").write_text("train: images\nnames: [cat, dog, bird]\nkpt_shape: [2, 3]\n")
    for k in range(4):
        (root / f"labels/train/im{k}.txt").write_text(
            "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 2\n1 0.5 0.5 0.3 0.3 0 0 0 0.5 0.6 1\n"
        )
    (root / "labels/train/im1.txt").write_text("0 0.5 0.5 0.2 0.2 0.4 0.4 2 1.6 0.6 2\n1 0.5 0.5 0.3 0.3 0 0 0 2 2 0\n")
    assert {each for each in told(look(root)) if each[2] is not None} == {
        ("keypoint-outside-image", "labels/train/im1.txt", 0)
    }


# Images -------------------------------------------------------------------------------------------------------------


def broken_images(root: Path) -> dict[str, str]:
    """Put a faulty image of each kind into a folder of sound ones; return the check that each should meet."""
    for k in range(6):
        sets.write_image(root / f"ok{k}.png", seed=k)
    whole = sets.write_image(root / "whole.jpg", seed=50).read_bytes()
    (root / "whole.jpg").unlink()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "cut.png").write_bytes((root / "ok0.png").read_bytes()[:900])
    (root / "empty.png").write_bytes(b"")
    (root / "words.png").write_text("this is no image")
    Image.fromarray(sets.noise(W, H, 60)).save(root / "really.jpg", "PNG")
    Image.new("RGB", (W, H), (9, 9, 9)).save(root / "flat.png")
    one = sets.noise(W, H, 61)
    one[..., 2] = 7
    Image.fromarray(one).save(root / "channel.png")
    Image.fromarray(sets.noise(W, H, 62, 1)).save(root / "grey.png")
    Image.fromarray(sets.noise(W, H, 63, 4)).save(root / "alpha.png")
    Image.fromarray(sets.noise(W, H, 64, 1).astype(np.uint16) * 200).save(root / "deep.png")
    (root / "copy.png").write_bytes((root / "ok3.png").read_bytes())
    hot = np.zeros((H, W), np.float32)
    hot[3, 4], hot[5, 6] = np.nan, np.inf
    Image.fromarray(hot).save(root / "hot.tif")
    return {
        "cut.jpg": "image-unreadable", "cut.png": "image-unreadable", "empty.png": "image-unreadable",
        "words.png": "image-unreadable", "really.jpg": "image-extension-mismatch", "flat.png": "image-constant",
        "channel.png": "channel-constant", "grey.png": "image-mode-varies", "alpha.png": "image-mode-varies",
        "deep.png": "image-depth", "ok3.png": "image-duplicate", "hot.tif": "value-nan",
    }  # fmt: skip


def test_images(tmp_path: Path) -> None:
    expected = broken_images(tmp_path)
    found = {(check, file) for check, file, _ in told(look(tmp_path))}
    assert {(check, file) for file, check in expected.items()} | {("value-inf", "hot.tif")} <= found
    assert {file for check, file in found if check == "image-unreadable"} == {
        file for file, check in expected.items() if check == "image-unreadable"
    }
    assert not {file for _, file in found} & {"ok0.png", "ok1.png", "ok2.png", "ok4.png", "ok5.png"}


def test_constant_beside_the_grid(tmp_path: Path) -> None:
    """Statistics come from a grid of pixels; that an image is constant is said of all of them."""
    array = np.full((200, 200, 3), 9, np.uint8)
    array[101, 103] = 10
    Image.fromarray(array).save(tmp_path / "a.png")
    sets.write_image(tmp_path / "b.png")
    assert "image-constant" not in checks(look(tmp_path))


def test_copies_across_splits_are_a_leak(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for k in range(3):
            sets.write_image(tmp_path / split / "ant" / f"{split}{k}.png")
            sets.write_image(tmp_path / split / "bee" / f"{split}b{k}.png")
    (tmp_path / "val/ant/leak.png").write_bytes((tmp_path / "train/ant/train1.png").read_bytes())
    assert told(look(tmp_path), "warning") == {("image-duplicate", "val/ant/leak.png", None)}


def test_class_of_one_split_only(tmp_path: Path) -> None:
    for name in ("train/ant", "train/bee", "val/ant", "val/wasp"):
        for k in range(2):
            sets.write_image(tmp_path / name / f"{name.replace('/', '')}{k}.png")
    (finding,) = look(tmp_path).findings
    assert (finding.check, finding.value) == ("class-missing-in-split", "wasp")


# Masks --------------------------------------------------------------------------------------------------------------


def test_masks(tmp_path: Path) -> None:
    root = sets.write_masks(tmp_path, n=8, void=255)
    masks = root / "masks"
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(masks / "im0.png")
    Image.fromarray(np.full((24, 32), 255, np.uint8)).save(masks / "im1.png")
    Image.fromarray(np.full((24, 32), 1, np.uint8)).save(masks / "im2.png")
    Image.fromarray(sets.noise(30, 24, 1, 1) % 3).save(masks / "im3.png")
    (masks / "im4.png").write_bytes(b"no mask")
    (masks / "im5.png").unlink()
    Image.fromarray(sets.noise(32, 24, 1)).save(masks / "im6.png")
    sets.write_image(masks / "lonely.png")
    result = look(root, classes=3, ignore_index=255)
    found = {(f.check, f.file) for f in result.findings if f.severity != "note"}
    assert found == {
        ("mask-value-out-of-range", "masks/im0.png"),
        ("mask-all-ignored", "masks/im1.png"),
        ("size-mismatch", "masks/im3.png"),
        ("mask-unreadable", "masks/im4.png"),
        ("annotation-missing", "images/im5.png"),
    }
    assert {("mask-constant", "masks/im2.png"), ("mask-unreadable", "masks/im6.png")} <= {
        (f.check, f.file) for f in result.findings if f.severity == "note"
    }


@pytest.mark.parametrize("ignored", [None, 255])
def test_void_without_its_ignore_index(ignored: int | None, tmp_path: Path) -> None:
    root = sets.write_masks(tmp_path, n=3, void=11)
    assert told(look(root, classes=3, ignore_index=ignored), "error") == {
        ("mask-value-out-of-range", f"masks/im{k}.png", None) for k in range(3)
    }
    assert checks(look(root, classes=3, ignore_index=11)) == set()


def test_ignore_index_of_a_class(tmp_path: Path) -> None:
    assert "ignore-index-swallows-class" in checks(
        look(sets.write_masks(tmp_path), classes=3, ignore_index=1), "warning"
    )


def test_masks_of_arrays(tmp_path: Path) -> None:
    root = sets.write_masks(tmp_path, n=2)
    for place in (root / "masks").iterdir():
        mask = np.asarray(Image.open(place)).astype(np.float32)
        mask[0, 0] = np.nan
        np.save(place.with_suffix(".npy"), mask)
        place.unlink()
    result = look(root)
    assert result.format == "masks"
    assert told(result, "error") == {("target-nan", f"masks/im{k}.npy", None) for k in range(2)}


# Arrays, tables, shards ---------------------------------------------------------------------------------------------


@given(row=st.integers(0, 39), column=st.integers(0, 4), value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_cell_of_an_array(row: int, column: int, value: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = fresh(tmp_path_factory)
    x = np.random.default_rng(0).normal(size=(40, 5))
    x[row, column] = value
    np.savez(root / "d.npz", X=x, y=np.arange(40) % 3)
    (finding,) = look(root).findings
    kind = "value-nan" if math.isnan(value) else "value-inf"
    assert (finding.check, finding.file, finding.annotation) == (kind, "d.npz:X", row)
    assert str(column) in finding.value


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 7))
    x[:, 1] = 3
    x[:, 2] = 5 + 1e-7 * rng.normal(size=100)
    x[:, 3] *= 1e20
    x[:, 4] = rng.normal(500, 200, 100)
    x[50, 5] = 1e5
    y = rng.normal(size=100)
    y[3], y[4] = np.nan, np.inf
    images = rng.uniform(0, 255, (6, 3, 9, 9)).astype(np.float32)
    images[2] = 8
    images[4, 1, 2, 3] = np.nan
    labels = np.arange(6) % 3
    labels[5] = 9
    np.savez(tmp_path / "t.npz", X=x, y=y, images=images, labels=labels)
    found = {(f.check, f.severity, f.file, f.annotation) for f in look(tmp_path, classes=3).findings}
    assert found == {
        ("feature-zero-variance", "warning", "t.npz:X", 1),
        ("feature-near-zero-variance", "warning", "t.npz:X", 2),
        ("value-extreme", "error", "t.npz:X", 3),
        ("value-extreme", "note", "t.npz:X", 4),
        ("value-extreme", "warning", "t.npz:X", 5),
        ("target-nan", "error", "t.npz:y", 3),
        ("target-inf", "error", "t.npz:y", 4),
        ("sample-constant", "warning", "t.npz:images", 2),
        ("value-nan", "error", "t.npz:images", 4),
        ("value-extreme", "warning", "t.npz:images", None),
        ("label-out-of-range", "error", "t.npz:labels", 5),
    }


def test_rows_that_do_not_match(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X_train=np.random.rand(9, 3), y_train=np.arange(8) % 2)
    assert ("size-mismatch", "t.npz:y_train", None) in told(look(tmp_path), "error")


def test_tables(tmp_path: Path) -> None:
    rows = [f"{k * 0.1:.2f},7,{'cat' if k % 2 else 'dog'},word{k}" for k in range(30)]
    rows[3] = "nan,7,cat,w"
    rows[4] = ",7,cat,w"
    rows[5] = "inf,7,,w"
    rows[6] = "oops,7,dog,w"
    rows[7] = "1,7"
    (tmp_path / "t.csv").write_text("a,b,label,text\n" + "\n".join(rows) + "\n")
    found = told(look(tmp_path))
    assert found == {
        ("value-nan", "t.csv", 3), ("value-nan", "t.csv", 4), ("value-inf", "t.csv", 5), ("label-missing", "t.csv", 5),
        ("annotation-unreadable", "t.csv", 6), ("value-nan", "t.csv", 6), ("annotation-unreadable", "t.csv", 7),
        ("feature-zero-variance", "t.csv", 1), ("label-missing", "t.csv", 7),
    }  # fmt: skip


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    values = [0.1 * k for k in range(20)]
    values[7] = math.nan
    table = pyarrow.table(
        {"a": values, "b": [1.5] * 20, "c": [None, *range(19)], "target": [*map(float, range(19)), math.inf]}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    result = look(tmp_path)
    assert result.format == "parquet"
    assert told(result) == {
        ("value-nan", "t.parquet", 7), ("value-nan", "t.parquet", 0), ("feature-zero-variance", "t.parquet", 1),
        ("target-inf", "t.parquet", 19),
    }  # fmt: skip


def write_shard(place: Path, members: list[tuple[str, bytes]]) -> None:
    import io
    import tarfile

    with tarfile.open(place, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_shards(tmp_path: Path) -> None:
    png = [sets.write_image(tmp_path / f"{k}.png", seed=k).read_bytes() for k in range(6)]
    for place in tmp_path.glob("*.png"):
        place.unlink()
    members = []
    for k in range(6):
        members += [(f"{k:03}.png", png[k]), (f"{k:03}.cls", str(k % 3).encode()), (f"{k:03}.json", b'{"a": 1}')]
    members[1] = ("000.cls", b"7")
    members[3] = ("001.png", png[1][:200])
    members[8] = ("002.json", b'{"a": \n oops}')
    del members[10]
    write_shard(tmp_path / "a-000.tar", members)
    result = look(tmp_path, classes=3)
    assert result.format == "webdataset"
    assert told(result) == {
        ("label-out-of-range", "a-000.tar:000.cls", None), ("image-unreadable", "a-000.tar:001.png", None),
        ("annotation-unreadable", "a-000.tar:002.json", None), ("annotation-missing", "a-000.tar:003", None),
    }  # fmt: skip
    data = (tmp_path / "a-000.tar").read_bytes()
    (tmp_path / "a-000.tar").write_bytes(data[: len(data) // 2])
    assert ("shard-unreadable", "a-000.tar", None) in told(look(tmp_path), "error")


def test_every_check_can_be_found() -> None:
    """Each check's slug stands in one of these tests, or in those about input that cannot be read."""
    from whynan.data.finding import all_checks

    text = "".join(place.read_text() for place in Path(__file__).parent.glob("test_*.py"))
    missing = [slug for slug in all_checks() if f'"{slug}"' not in text]
    assert missing == []


def test_slugs_that_scripts_rely_on() -> None:
    from whynan.data.finding import all_checks

    needed = """
    box-zero-size box-negative-size box-nonfinite box-outside-image box-partly-outside-image box-too-small
    box-duplicate area-not-positive segmentation-empty polygon-too-short mixed-box-and-polygon-lines
    label-out-of-range mask-value-out-of-range mask-all-ignored class-unused duplicate-annotation-id
    annotation-missing annotation-file-empty annotation-unreadable image-missing image-without-annotations
    image-unreadable image-extension-mismatch image-duplicate image-constant image-mode-varies size-mismatch
    value-nan value-inf value-extreme feature-zero-variance target-nan target-inf
    """
    assert set(needed.split()) <= set(all_checks())


def test_every_check_explains_itself() -> None:
    from whynan.data.finding import all_checks
    from whynan.diagnosis.catalogue import look_up

    for slug, check in all_checks().items():
        assert len(check.why) > 40, slug
        assert check.title[0].islower() or check.title.startswith("NaN"), slug
        if check.cause:
            look_up(check.cause)


def test_result_is_json(tmp_path: Path) -> None:
    root = sets.write_coco(tmp_path, sets.pictures())
    content = look(root).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))
