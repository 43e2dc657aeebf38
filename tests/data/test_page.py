"""The page: self-contained, with pictures of what is wrong and plots, whatever names are in the set."""

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image
from tests.data import sets
from tests.data.conftest import look
from tests.data.test_faults import broken_images

from whynan.data.page import render, save_page


def pictures_of(page: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    ]


def test_page_of_boxes(tmp_path: Path) -> None:
    pictures = sets.pictures()
    pictures[1].objects[0] = (0, 20, 10, 20, 30)
    pictures[2].objects[0] = (0, 70, 10, 90, 30)
    pictures[3].objects[0] = (0, 5, 5, 9, 9)
    page = render(look(sets.write_voc(tmp_path / "<b>set</b>", pictures)))
    assert "box-zero-size" in page and "whynan explain degenerate-box" in page
    assert "<b>set</b>" not in page and "&lt;b&gt;set&lt;/b&gt;" in page
    assert not re.search(r"https?://|<script|<link|src=\"(?!data:)", page.replace("http://www.w3.org", ""))
    shown = pictures_of(page)
    assert len(shown) == 2
    for image in shown:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        red = (pixels[..., 0] > 180) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
        assert red.sum() > 20, "nothing is drawn"
    assert page.count("<svg") >= 2


def test_page_of_masks(tmp_path: Path) -> None:
    root = sets.write_masks(tmp_path)
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(root / "masks/im0.png")
    shown, *_ = pictures_of(render(look(root, classes=3)))
    assert np.asarray(shown).astype(int).mean(axis=(0, 1))[0] > 190


def test_page_of_broken_images(tmp_path: Path) -> None:
    broken_images(tmp_path)
    result = look(tmp_path)
    save_page(result, tmp_path / "data.html")
    page = (tmp_path / "data.html").read_text()
    assert all(slug in page for _, slug, _, _ in result.found.groups())


def test_page_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, np.nan]]))
    assert "value-nan" in render(look(tmp_path))


def test_page_of_a_clean_set(tmp_path: Path) -> None:
    assert "Nothing of severity error" in render(look(sets.write_voc(tmp_path, sets.pictures())))
