"""The same findings from every engine and from the cache; a second look reads nothing."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data import sets
from tests.data.conftest import checks
from tests.data.test_faults import broken_images

from whynan.data.finding import Options
from whynan.data.result import Result
from whynan.data.scan import scan
from whynan.data.storage import Storage
from whynan.data.units import Outcome, Unit


def mixed(root: Path) -> Path:
    """All formats of images in one folder, each with a fault."""
    pictures = sets.pictures(60)
    pictures[7].objects[0] = (0, 5, 5, 5, 9)
    pictures[40].objects[1] = (1, 50, 5, 90, 20)
    sets.write_voc(root / "voc", pictures)
    sets.write_coco(root / "coco", pictures)
    sets.write_yolo(root / "yolo", pictures)
    sets.write_masks(root / "seg", n=6)
    Image.fromarray(np.full((20, 20), 2, np.uint8)).save(root / "seg/masks/im0.png")
    broken_images(root / "voc" / "JPEGImages")
    return root


def content(result: Result) -> dict[str, Any]:
    """Return what must be the same."""
    made = result.to_json()
    for key in ("seconds", "engine"):
        del made[key]
    del made["counts"]["files_read"]
    return made


def test_workers_find_the_same(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    one = scan(str(root), Options(), workers=1, is_cached=False)
    two = scan(str(root), Options(), workers=2, is_cached=False)
    assert one.format == "coco+voc+yolo+masks"
    assert content(one) == content(two)
    assert len(one.findings) > 20


def test_second_look_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mixed(tmp_path)
    (root / "arrays").mkdir()
    first = scan(str(root), Options(), workers=1)
    opened = []
    monkeypatch.setattr(Storage, "open", lambda self, name: opened.append(name))
    monkeypatch.setattr(Storage, "read", lambda self, name: opened.append(name))
    second = scan(str(root), Options(), workers=1)
    assert opened == []
    assert second.n_read == 0 < first.n_read
    assert content(first) == content(second)


@pytest.mark.parametrize("kind", ["npz", "csv", "webdataset", "folder"])
def test_second_look_of_other_formats(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "npz":
        np.savez(tmp_path / "a.npz", X=np.array([[1.0, np.nan], [2, 3]]), y=np.array([0, 5]))
    elif kind == "csv":
        (tmp_path / "t.csv").write_text("a,label\n1,x\nnan,y\n")
    elif kind == "webdataset":
        from tests.data.test_faults import write_shard

        write_shard(tmp_path / "a.tar", [("0.cls", b"1"), ("0.png", b"broken"), ("1.cls", b"-4")])
    else:
        broken_images(tmp_path)
    first = scan(str(tmp_path), Options(), workers=1)
    monkeypatch.setattr(Storage, "open", lambda self, name: 1 / 0)
    second = scan(str(tmp_path), Options(), workers=1)
    assert content(first) == content(second)
    assert first.n_errors > 0


def test_changed_files_alone_are_read_again(tmp_path: Path) -> None:
    root = sets.write_voc(tmp_path, sets.pictures(20))
    scan(str(root), Options(), workers=1)
    place = root / "Annotations/im3.xml"
    time.sleep(0.02)
    place.write_text(place.read_text().replace("<xmax>33</xmax>", "<xmax>7</xmax>"))
    (root / "JPEGImages/im4.png").unlink()
    again = scan(str(root), Options(), workers=1)
    assert again.n_read == 1
    assert checks(again) == {"box-zero-size", "image-missing"}


def test_options_do_not_come_from_the_cache(tmp_path: Path) -> None:
    root = sets.write_masks(tmp_path, void=9)
    assert checks(scan(str(root), Options(classes=3, ignore_index=9), workers=1)) == set()
    assert checks(scan(str(root), Options(classes=3), workers=1)) == {"mask-value-out-of-range"}


def test_cache_can_be_turned_off_and_broken(tmp_path: Path, own_cache: Path) -> None:
    root = sets.write_voc(tmp_path, sets.pictures())
    scan(str(root), Options(), workers=1, is_cached=False)
    assert list(own_cache.rglob("*")) == []
    scan(str(root), Options(), workers=1)
    (place,) = own_cache.rglob("*.sqlite")
    place.write_bytes(b"this is no database" * 100)
    assert scan(str(root), Options(), workers=1).n_read == 8
    assert scan(str(root), Options(), workers=1).n_read == 0
    place.unlink()
    place.mkdir()
    assert scan(str(root), Options(), workers=1).n_read == 8


def test_statistics_of_the_grid_are_near_those_of_all_pixels(tmp_path: Path) -> None:
    for k in range(6):
        smooth = Image.fromarray(sets.noise(12, 9, k)).resize((700, 500), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / f"{k}.png")
    pixels = (
        np.concatenate([np.asarray(Image.open(place)).reshape(-1, 3) for place in sorted(tmp_path.iterdir())]) / 255
    )
    for exact, tolerance in ((True, 1e-9), (False, 5e-3)):
        channels = scan(str(tmp_path), Options(exact=exact), workers=1, is_cached=False).statistics.usual_channels
        assert channels is not None
        assert np.allclose(channels.mean, pixels.mean(axis=0), atol=tolerance)
        assert np.allclose(channels.std, pixels.std(axis=0), atol=tolerance)


def test_ray_cluster_of_two_processes_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real cluster on this machine, two workers beside the driver, each doing one image at a time."""
    import ray

    from whynan.data.engine import RayEngine

    root = mixed(tmp_path / "set")
    np.savez(root / "a.npz", X=np.array([[1.0, np.nan], [2, 3]]))
    local = scan(str(root), Options(), workers=1, is_cached=False)
    workers: set[int] = set()
    real = RayEngine.run

    def run(self: RayEngine, units: Iterable[Unit], is_small: bool = False) -> Iterator[Outcome]:
        assert ray.cluster_resources()["CPU"] == 2
        for outcome in real(self, units, is_small):
            workers.add(outcome.worker)
            yield outcome

    monkeypatch.setattr(RayEngine, "run", run)
    monkeypatch.setattr("whynan.data.scan.IMAGES_A_UNIT", 1)
    try:
        remote = scan(str(root), Options(), engine="ray", workers=2, is_cached=False)
    finally:
        was_running = ray.is_initialized()
        ray.shutdown()
    assert remote.engine == "ray"
    assert content(local) == content(remote)
    assert workers and os.getpid() not in workers
    assert not was_running
