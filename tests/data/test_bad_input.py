"""What cannot be read is one finding each, never a traceback, and the rest of the set is still checked."""

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data import sets
from tests.data.conftest import checks, look, told

from whynan.data.finding import DataError, Finding
from whynan.data.storage import Storage

BOMB = (
    """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa">"""
    + "".join(f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(12))
    + """]>
<annotation><object><name>&m;</name></object></annotation>"""
)
EXTERNAL = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>
<annotation><object><name>&x;</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def only(path: Path, check: str) -> Finding:
    """Return the one finding of a check, after a look that found a fault of the set's own in the rest of it as well."""
    result = look(path)
    assert "box-zero-size" in checks(result), "the rest was not checked"
    (finding,) = [f for f in result.findings if f.check == check]
    return finding


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    pictures = sets.pictures()
    pictures[3].objects[0] = (0, 5, 5, 5, 20)
    return sets.write_voc(tmp_path / "voc", pictures)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    pictures = sets.pictures()
    pictures[3].objects[0] = (0, 5, 5, 5, 20)
    return sets.write_yolo(tmp_path / "yolo", pictures)


XML: dict[str, tuple[bytes, str]] = {
    "unclosed": (b"<annotation>\n<object>\n<name>cat</nam>\n", "line 3"),
    "cut": (b"<annotation>\n  <object>\n", "line"),
    "no xml": (b"\x00\x01\x02", "malformed XML"),
    "another root": (b"<?xml version='1.0'?>\n<html/>", "<html>"),
    "entity bomb": (BOMB.encode(), "entit"),
    "external entity": (EXTERNAL.encode(), "entit"),
    "wrong encoding": (
        b"<?xml version='1.0' encoding='utf-8'?>\n<annotation><filename>caf\xe9.png</filename></annotation>",
        "line 2",
    ),
    "unknown encoding": (b"<?xml version='1.0' encoding='klingon'?>\n<annotation/>", "malformed XML"),
    "deep": (b"<annotation>" + b"<a>" * 100_000, "malformed XML"),
}


@pytest.mark.parametrize("fault", XML)
def test_xml(fault: str, voc: Path) -> None:
    content, words = XML[fault]
    (voc / "Annotations/im1.xml").write_bytes(content)
    started = time.monotonic()
    finding = only(voc, "annotation-unreadable")
    assert time.monotonic() - started < 5
    assert (finding.file, finding.severity) == ("Annotations/im1.xml", "error")
    assert words in finding.message


def test_external_entities_are_not_read(voc: Path) -> None:
    (voc / "Annotations/im1.xml").write_text(EXTERNAL)
    hostname = Path("/etc/hostname")
    secret = hostname.read_text().strip() if hostname.exists() else "nothing"
    assert all(secret not in name for name in look(voc).statistics.classes)


def test_corners_that_are_no_numbers(voc: Path) -> None:
    place = voc / "Annotations/im1.xml"
    place.write_text(
        place.read_text().replace("<xmin>5</xmin>", "<xmin>five</xmin>", 1).replace("<ymax>37</ymax>", "", 1)
    )
    found = {f.annotation: f.message for f in look(voc).findings if f.check == "annotation-unreadable"}
    assert "line 6" in found[0] and "'five'" in found[0]
    assert "<ymax> is missing" in found[1]


JSON: dict[str, tuple[bytes, str]] = {
    "cut": (b'{"images": [{"id": 0, "file_name": "im0.png"},\n{"id": 1, "fi', "line 2"),
    "comma": (b'{"images": [],\n "annotations": [\n{"id": 1,}\n]}', "line 3"),
    "list": (b"[1, 2]", "expected an object"),
    "empty": (b"", "the file ends here"),
    "not UTF-8": (b'{"images": [],\n "annotations": [{"id": "\xff"}]}', "not UTF-8"),
    "UTF-16": ('{"images": []}'.encode("utf-16"), "not UTF-8"),
    "deep": (b'{"images": ' + b"[" * 200_000, "nested too deeply"),
    "number": (b'{"annotations": [{"id": ' + b"9" * 10_000 + b"}]}", "line 1"),
    "scalars": (b'{"annotations": 5, "images": {"a": 1}, "categories": null}', "annotations"),
}


@pytest.mark.parametrize("fault", JSON)
def test_json(fault: str, tmp_path: Path) -> None:
    content, words = JSON[fault]
    sets.write_images(tmp_path / "images", sets.pictures())
    (tmp_path / "annotations.json").write_bytes(content)
    found = [f for f in look(tmp_path).findings if f.check == "annotation-unreadable"]
    assert found
    assert any(words in f.message for f in found), [f.message for f in found]


def test_elements_that_are_no_objects(tmp_path: Path) -> None:
    content = sets.coco_content(sets.pictures())
    content["annotations"][1] = "five"
    content["images"][2] = None
    content["categories"].append(7)
    found = [
        f
        for f in look(sets.write_coco(tmp_path, sets.pictures(), content)).findings
        if f.check == "annotation-unreadable"
    ]
    assert {f.annotation for f in found} >= {None, 1}


def test_what_stands_before_the_error_is_checked(tmp_path: Path) -> None:
    pictures = sets.pictures()
    pictures[0].objects[1] = (1, 7, 7, 7, 9)
    root = sets.write_coco(tmp_path, pictures)
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text[: text.index('"categories"')])
    found = look(root)
    assert ("box-zero-size", "annotations.json", 1) in told(found)
    assert "annotation-unreadable" in checks(found)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"names: [cat, dog\ntrain: x\n", "line 2"),
        (b"names:\n\t- cat\n", "line 2"),
        (b"names: [caf\xe9]\n", "line 1"),
        (b"names: !!python/object/apply:os.system ['true']\n", "line 1"),
    ],
)
def test_yaml(content: bytes, words: str, yolo: Path) -> None:
    (yolo / "data.yaml").write_bytes(content)
    finding = only(yolo, "config-unreadable")
    assert finding.file == "data.yaml"
    assert words in finding.message


def test_yaml_that_names_what_is_not_there(yolo: Path) -> None:
    (yolo / "data.yaml").write_text("train: images/elsewhere\nnames: [a, b, c]\nnc: 5\n")
    assert {"config-path-missing", "config-unreadable"} <= checks(look(yolo))


def test_label_files_in_other_encodings(yolo: Path) -> None:
    labels = yolo / "labels/train"
    (labels / "im0.txt").write_bytes("0 0.5 0.5 0.2 0.2\n".encode("utf-16"))
    (labels / "im1.txt").write_bytes(b"0 0.5 0.5 0.2 0.2\n\xe9\xff\n")
    (labels / "im2.txt").write_bytes(b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n")
    found = {each for each in told(look(yolo)) if each[0] == "annotation-unreadable"}
    assert found == {
        ("annotation-unreadable", "labels/train/im0.txt", None),
        ("annotation-unreadable", "labels/train/im1.txt", 1),
    }


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def test_decompression_bomb(yolo: Path) -> None:
    (yolo / "images/train/im1.png").write_bytes(png_that_claims(60_000, 60_000))
    started = time.monotonic()
    finding = only(yolo, "image-unreadable")
    assert time.monotonic() - started < 5
    assert "60000 x 60000" in finding.message


def test_symbolic_links(yolo: Path) -> None:
    (yolo / "images/up").symlink_to(yolo)
    (yolo / "images/self").symlink_to("self")
    (yolo / "images/train/gone.png").symlink_to("nowhere.png")
    result = look(yolo)
    found = told(result)
    assert {("symlink-loop", "images/up", None), ("symlink-broken", "images/train/gone.png", None)} <= found
    assert {("symlink-loop", "images/self", None)} <= found
    assert result.statistics.n_images == 4
    assert "box-zero-size" in checks(result)


def test_linked_folder_is_followed_once(tmp_path: Path) -> None:
    pictures = sets.pictures()
    real = sets.write_voc(tmp_path / "real", pictures)
    (tmp_path / "set").mkdir()
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / "set" / name).symlink_to(real / name)
    (tmp_path / "set" / "again").symlink_to(real / "JPEGImages")
    result = look(tmp_path / "set")
    assert checks(result) == set()
    assert result.statistics.n_images == 4


def refuse(monkeypatch: pytest.MonkeyPatch, names: set[str], error: Callable[[], OSError]) -> None:
    """Root may read everything: a refused file is one that the storage does not open."""
    real = Storage.open

    def opened(self: Storage, name: str) -> object:
        if name in names:
            raise error()
        return real(self, name)

    monkeypatch.setattr(Storage, "open", opened)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: PermissionError(13, "Permission denied"), "permission"),
        (lambda: FileNotFoundError(2, "No such file"), "vanished"),
        (lambda: OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_files_that_do_not_open(
    error: Callable[[], OSError], words: str, voc: Path, yolo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, {"Annotations/im1.xml", "JPEGImages/im2.png"}, error)
    result = look(voc)
    found = {f.check: f for f in result.findings}
    assert words in found["annotation-unreadable"].message
    assert words in found["image-unreadable"].message
    assert "box-zero-size" in found


def test_arrays_that_do_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "t.csv").write_text("a\n1\n")
    refuse(monkeypatch, {"a.npy", "t.csv"}, lambda: FileNotFoundError(2, "gone"))
    assert told(look(tmp_path)) == {("array-unreadable", "a.npy", None), ("array-unreadable", "t.csv", None)}


def test_folder_without_permission(yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(place: str) -> object:
        if str(place).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return real(place)

    (yolo / "secret").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    found = told(look(yolo))
    assert ("folder-unreadable", "secret", None) in found
    assert ("box-zero-size", "labels/train/im3.txt", 0) in found


def test_names_that_are_no_text(yolo: Path) -> None:
    odd = os.fsdecode(b"im\xff1")
    try:
        sets.write_image(yolo / "images/train" / f"{odd}.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    from whynan.data.finding import Options
    from whynan.data.scan import scan
    from whynan.data.terminal import render

    for _ in range(2):
        result = scan(str(yolo), Options(), workers=1)
        assert "annotation-missing" in checks(result)
    result.save_json(yolo / "out.json")
    with (yolo / "out.txt").open("w", encoding="ascii") as file:
        render(result, file, is_all=True)


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "cut.npy", np.zeros(1000))
    data = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:500])
    (tmp_path / "words.npz").write_bytes(b"no archive")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.savez_compressed(tmp_path / "flip.npz", a=np.random.rand(100), b=np.ones(3))
    data = bytearray((tmp_path / "flip.npz").read_bytes())
    data[100:120] = b"\0" * 20
    (tmp_path / "flip.npz").write_bytes(bytes(data))
    found = {(f.file, f.severity) for f in look(tmp_path).findings if f.check == "array-unreadable"}
    assert found == {
        ("objects.npy", "error"), ("cut.npy", "error"), ("words.npz", "error"), ("empty.npy", "error"),
        ("flip.npz:a", "error"), ("text.npy", "note"),
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"a,b\n1,\xff\n", b'a,b\n1,"2\n3,4\n', b"\0\0\0", b"a\n" + b"x" * 200_000])
def test_csv(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    (tmp_path / "ok.csv").write_text("a,b\n1,2\n3,nan\n")
    assert ("value-nan", "ok.csv", 1) in told(look(tmp_path))


def test_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more")
    assert told(look(tmp_path)) == {("annotation-unreadable", "t.parquet", None)}


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_tar(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    assert {check for check, _, _ in told(look(tmp_path))} <= {"shard-unreadable", "annotation-file-empty"}
    assert look(tmp_path).n_errors >= 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=400), data=st.data())
def test_any_bytes(content: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes of any kind in the place of a file, or within it, raise no exception."""
    root = tmp_path_factory.mktemp("set")
    write = data.draw(st.sampled_from([sets.write_voc, sets.write_yolo, sets.write_coco]))
    write(root, sets.pictures(2))
    victims = sorted(place for place in root.rglob("*") if place.is_file())
    victim = data.draw(st.sampled_from(victims))
    whole = victim.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    victim.write_bytes(content if data.draw(st.booleans()) else whole[:at] + content + whole[at:])
    try:
        look(root)
    except DataError:
        assert victim.suffix in (".json", ".txt", ".xml")


def test_crash_of_a_decoder_costs_one_file(yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whynan.data import engine
    from whynan.data.finding import Options
    from whynan.data.readers import images
    from whynan.data.scan import scan

    for k in range(80):
        sets.write_image(yolo / "images/train" / f"more{k}.png", 8, 8, seed=k)
    deadly = (yolo / "images/train/more40.png").read_bytes()
    real = images.read

    def read(data: bytes, exact: bool = False) -> object:
        if data == deadly:
            os._exit(1)
        return real(data, exact)

    monkeypatch.setattr(images, "read", read)
    # Only a fork takes the change along; a test runner may have threads, with which a fork is not chosen.
    monkeypatch.setattr(engine, "_context", lambda: multiprocessing.get_context("fork"))
    result = scan(str(yolo), Options(), workers=2, is_cached=False)
    assert {each for each in told(result) if each[0] == "worker-crashed"} == {
        ("worker-crashed", "images/train/more40.png", None)
    }
    assert result.statistics.n_images == 83
    assert "box-zero-size" in checks(result)


def test_interrupt_prints_what_it_has(tmp_path: Path) -> None:
    for k in range(60):
        Image.fromarray(sets.noise(900, 700, k)).save(tmp_path / f"a{k:02}.png", compress_level=1)
    (tmp_path / "a00.png").write_bytes(b"broken")
    slow = (
        "import sys, time\n"
        "from whynan.data.readers import images\n"
        "real = images.read\n"
        "def read(data, exact=False):\n"
        "    time.sleep(0.1)\n"
        "    return real(data, exact)\n"
        "images.read = read\n"
        "import whynan.data.scan as scan\n"
        "scan.IMAGES_A_UNIT = 2\n"
        "from whynan.cli.main import main\n"
        "sys.argv[:] = ['whynan', *sys.argv[1:]]\n"
        "sys.exit(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "data", str(tmp_path), "--format", "folder", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "image-unreadable" in stdout
    assert "nterrupted" in stdout
    assert "Traceback" not in stderr
