"""Sound sets of every format have no findings but notes, however their boxes lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data import sets
from tests.data.conftest import checks, look

WRITERS = {"voc": sets.write_voc, "yolo": sets.write_yolo, "coco": sets.write_coco}
settings.register_profile("sets", max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("sets")


@st.composite
def sound_pictures(draw: st.DrawFn) -> list[sets.Picture]:
    made = []
    for k in range(draw(st.integers(2, 4))):
        width, height = draw(st.integers(16, 80)), draw(st.integers(16, 80))
        objects = set()
        for _ in range(draw(st.integers(1, 4))):
            x1, y1 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
            x2, y2 = draw(st.integers(x1 + 2, width)), draw(st.integers(y1 + 2, height))
            objects.add((draw(st.integers(0, 2)), x1, y1, x2, y2))
        made.append(sets.Picture(f"im{k}", width, height, sorted(objects)))
    return made


@pytest.mark.parametrize("format_", sorted(WRITERS))
@given(pictures=sound_pictures())
def test_sound_boxes_are_no_finding(
    format_: str, pictures: list[sets.Picture], tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = look(WRITERS[format_](tmp_path_factory.mktemp("set"), pictures))
    assert result.format == format_
    assert checks(result) <= {"class-unused"}
    assert result.statistics.n_images == len(pictures)
    assert result.statistics.n_annotations == sum(len(picture.objects) for picture in pictures)
    counts = dict.fromkeys(sets.NAMES, 0)
    for picture in pictures:
        for c, *_ in picture.objects:
            counts[sets.NAMES[c]] += 1
    assert dict(result.statistics.classes) == {name: n for name, n in counts.items() if n}


def test_sound_masks(tmp_path: Path) -> None:
    result = look(sets.write_masks(tmp_path, void=255), classes=3, ignore_index=255)
    assert result.format == "masks"
    assert checks(result) == set()
    assert set(result.statistics.classes) == {"0", "1", "2"}


def test_boxes_without_polygons_are_a_note(tmp_path: Path) -> None:
    content = sets.coco_content(sets.pictures())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    content["categories"].append({"id": 0, "name": "things"})
    result = look(sets.write_coco(tmp_path, sets.pictures(), content))
    assert checks(result, "error") == checks(result, "warning") == set()
    assert checks(result, "note") == {"segmentation-empty", "class-unused"}


def test_image_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            for k in range(3):
                sets.write_image(tmp_path / split / name / f"{split}{name}{k}.png")
    result = look(tmp_path)
    assert (result.format, checks(result)) == ("folder", set())
    assert dict(result.statistics.classes) == {"ant": 6, "bee": 6}
    assert result.losses["uniform"] == pytest.approx(np.log(2))


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", X=rng.normal(size=(50, 5)), y=rng.integers(0, 4, 50))
    np.save(tmp_path / "b.npy", rng.normal(size=(20, 3, 8, 8)).astype(np.float32))
    result = look(tmp_path)
    assert (result.format, checks(result)) == ("npz", set())
    assert {each["name"] for each in result.statistics.arrays} == {"a.npz:X", "a.npz:y", "b.npy"}


def test_real_layout_of_several_configurations(tmp_path: Path) -> None:
    """Boxes and polygons of the same images, numbered differently, each with a configuration of its own."""
    pictures = sets.pictures()
    root = sets.write_yolo(tmp_path, pictures, config=False)
    (root / "labels" / "train").rename(root / "labels_det")
    (root / "labels").rmdir()
    (root / "labels_seg").mkdir()
    for picture in pictures:
        (root / "labels_seg" / f"{picture.stem}.txt").write_text(
            "7 0.1 0.1 0.5 0.1 0.5 0.5\n9 0.2 0.2 0.6 0.2 0.6 0.7\n"
        )
    (root / "config_detection.yaml").write_text(f"names: {list(sets.NAMES)}\n")
    (root / "config_segmentation.yaml").write_text("names: {7: a, 9: b, 12: c}\n")
    result = look(root)
    assert checks(result, "error") == set()
    assert {part.file: part.declared and sorted(part.declared) for part in result.parts} == {
        "labels_det": [0, 1, 2],
        "labels_seg": [7, 9, 12],
    }


def test_no_sound_float_is_extreme(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,label\n" + "".join(f"{k / 7:.3f},{-k},{k % 3}\n" for k in range(60)))
    result = look(tmp_path)
    assert checks(result) == set()
    assert dict(result.statistics.classes) == {"0": 20, "1": 20, "2": 20}
    assert json.loads(json.dumps(result.to_json()))["format"] == "csv"
