"""`--fix`: the copy has no fixable finding any more, the originals are as they were."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data import sets
from tests.data.conftest import checks, look
from tests.data.test_cli import whynan

from whynan.data.fix import repair
from whynan.errors import OutputError


def faulty_pictures() -> list[sets.Picture]:
    pictures = sets.pictures(6)
    pictures[0].objects[1] = (1, 9, 9, 9, 20)
    pictures[1].objects[0] = (0, 30, 10, 20, 25)
    pictures[2].objects[2] = (2, 40, 20, 80, 40)
    pictures[3].objects[0] = (0, 70, 10, 90, 20)
    pictures[4].objects.append(pictures[4].objects[0])
    pictures[5].objects[1] = (1, float("nan"), 3, 9, 20)
    return pictures


def fingerprint(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha1(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


WRITERS: dict[str, tuple[Callable[..., Path], str]] = {
    "voc": (sets.write_voc, "JPEGImages"),
    "yolo": (sets.write_yolo, "images"),
    "coco": (sets.write_coco, "images"),
}


@pytest.mark.parametrize("format_", WRITERS)
def test_repaired_copy_is_sound(format_: str, tmp_path: Path) -> None:
    write, images = WRITERS[format_]
    root = write(tmp_path / "set", faulty_pictures())
    before = fingerprint(root)
    first = look(root)
    assert {"box-zero-size", "box-outside-image", "box-duplicate", "box-nonfinite"} <= checks(first)
    changes = repair(first, tmp_path / "out")
    assert fingerprint(root) == before
    shutil.copytree(root / images, tmp_path / "out" / images)
    if format_ == "yolo":
        shutil.copy(root / "data.yaml", tmp_path / "out")
    again = look(tmp_path / "out")
    assert checks(again) == set()
    assert again.statistics.n_annotations == first.statistics.n_annotations - 4
    text = changes.text()
    assert "box-zero-size" in text and "clipped" in text and "negative" in text


def test_coco_beyond_boxes(tmp_path: Path) -> None:
    content = sets.coco_content(sets.pictures())
    rows = content["annotations"]
    rows[0]["area"] = 0
    rows[1]["id"] = rows[0]["id"]
    rows[2]["segmentation"] = [[1, 1, 2, 2], [5, 5, 20, 5, 20, 20]]
    rows[3]["segmentation"] = [[1, 1, 2, 2]]
    rows[4]["category_id"] = None
    rows[5]["category_id"] = 99
    content["images"][1]["width"] = 5
    content["info"] = {"year": 2020}
    content["licenses"] = []
    root = sets.write_coco(tmp_path / "set", sets.pictures(), content)
    changes = repair(look(root), tmp_path / "out")
    made = json.loads((tmp_path / "out/annotations.json").read_text())
    assert made["info"] == {"year": 2020} and made["licenses"] == []
    assert made["annotations"][0]["area"] == 26 * 30
    assert made["annotations"][2]["segmentation"] == [[5, 5, 20, 5, 20, 20]]
    ids = [row["id"] for row in made["annotations"]]
    assert len(set(ids)) == len(ids) == 10
    assert made["images"][1]["width"] == 64
    shutil.copytree(root / "images", tmp_path / "out/images")
    assert checks(look(tmp_path / "out")) == {"label-out-of-range"}
    assert "label-out-of-range 1" in changes.text()


def test_size_tag_of_voc(tmp_path: Path) -> None:
    pictures = sets.pictures()
    root = sets.write_voc(tmp_path / "set", pictures)
    (root / "Annotations/im0.xml").write_text(sets.voc_text(pictures[0], size=(0, 0)))
    repair(look(root), tmp_path / "out")
    assert "<width>64</width><height>48</height>" in (tmp_path / "out/Annotations/im0.xml").read_text()


def test_unreadable_files_are_copied_as_they_are(tmp_path: Path) -> None:
    root = sets.write_voc(tmp_path / "set", faulty_pictures())
    (root / "Annotations/im5.xml").write_text("<annotation>")
    changes = repair(look(root), tmp_path / "out")
    assert (tmp_path / "out/Annotations/im5.xml").read_text() == "<annotation>"
    assert "annotation-unreadable 1" in changes.text()


def test_broken_json_is_not_written(tmp_path: Path) -> None:
    root = sets.write_coco(tmp_path / "set", faulty_pictures())
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text[: text.index('"categories"')])
    changes = repair(look(root), tmp_path / "out")
    assert not (tmp_path / "out/annotations.json").exists()
    assert "not written: annotations.json: line 1" in changes.text()


def test_never_into_the_set_itself(tmp_path: Path) -> None:
    root = sets.write_voc(tmp_path, faulty_pictures())
    with pytest.raises(OutputError):
        repair(look(root), root)


def test_command(tmp_path: Path) -> None:
    root = sets.write_voc(tmp_path / "set", faulty_pictures())
    done = whynan("data", root, "--fix", tmp_path / "out")
    assert done.returncode == 1
    assert "6 of 6 annotation files repaired" in done.stdout
    again = whynan("data", root, "--fix", tmp_path / "out")
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr
