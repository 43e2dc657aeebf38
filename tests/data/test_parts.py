"""The parts that checks stand on: JSON in pieces, run-length encodings, areas, measures, memory."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.data.annotations import shoelace
from whynan.data.measure import ArrayMeasure, initial_losses
from whynan.data.readers import images, json_stream
from whynan.data.readers.json_stream import BEGIN, ELEMENT, END, JsonError, JsonStream

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def gather(data: bytes) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for event, key, value in JsonStream(io.BytesIO(data)):
        if event == BEGIN:
            made[key] = []
        elif event == ELEMENT:
            made[key].append(value)
        elif event != END:
            made[key] = value
    return made


@settings(deadline=None)
@given(
    content=st.dictionaries(st.text(max_size=6), values, max_size=5),
    piece=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
def test_json_in_pieces_is_json(content: dict[str, Any], piece: int, indent: int | None) -> None:
    before, json_stream.PIECE = json_stream.PIECE, piece
    try:
        assert gather(json.dumps(content, indent=indent).encode()) == content
        assert (
            gather(json.dumps(content, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")) == content
        )
    except JsonError as error:
        assert "UTF-8" in str(error)  # a lone surrogate has no encoding
    finally:
        json_stream.PIECE = before


@settings(deadline=None)
@given(content=st.dictionaries(st.text("ab", max_size=2), values, max_size=3), data=st.data(), piece=st.integers(1, 40))
def test_errors_stand_in_the_line_that_python_names(content: dict[str, Any], data: st.DataObject, piece: int) -> None:
    text = json.dumps(content, indent=1)
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.sampled_from(["}", "]", ",", "x", '"', ":"])) + text[at:]
    before, json_stream.PIECE = json_stream.PIECE, piece
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        with pytest.raises(JsonError) as ours:
            gather(text.encode())
        # A string that never ends is noticed where it begins, or where its line does.
        assert ours.value.line in (error.lineno, error.lineno - 1, error.lineno + 1)
    else:
        gather(text.encode())
    finally:
        json_stream.PIECE = before


def compress(runs: list[int]) -> str:
    """The encoding of the COCO API (rleToString), run by run."""
    text = ""
    for k, run in enumerate(runs):
        x = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


@given(runs=st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_run_length_encoding(runs: list[int]) -> None:
    assert images.decompress_rle(compress(runs)).tolist() == runs
    expected = (sum(runs[1::2]), sum(runs))
    assert images.rle_area({"counts": compress(runs)}) == images.rle_area({"counts": runs}) == expected


@given(text=st.text(max_size=20))
def test_any_text_for_runs(text: str) -> None:
    try:
        images.rle_area({"counts": text})
    except ValueError as error:
        assert str(error)


def test_pixels_of_a_mask_go_down_the_columns() -> None:
    mask = images.rle_pixels({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_shoelace() -> None:
    square, triangle = [[0, 0], [4, 0], [4, 4], [0, 4]], [[1e6, 1e6], [1e6 + 1, 1e6], [1e6, 1e6 + 1]]
    points = np.array([*square, *triangle, [5, 5]], dtype=float)
    assert shoelace(points, np.array([4, 0, 3, 1])).tolist() == [16.0, 0.0, 0.5, 0.0]


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 60), cut=st.integers(1, 20), seed=st.integers(0, 99), holes=st.booleans())
def test_measure_in_pieces(n: int, cut: int, seed: int, holes: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(1000, 3, size=(n, 4))
    if holes:
        x[rng.random(x.shape) < 0.2] = np.nan
    measure = ArrayMeasure(None, "x", "float64", [n, 4])
    for start in range(0, n, cut):
        measure.add(x[start : start + cut])
    filled = np.isfinite(x).any(axis=0)
    assert measure.n_nan == int(np.isnan(x).sum())
    assert np.allclose(measure.mean[filled], np.nanmean(x[:, filled], axis=0))
    assert np.allclose(measure.std[filled], np.nanstd(x[:, filled], axis=0), atol=1e-8)
    assert {(row, column) for row, column, _, _ in measure.cells} == set(map(tuple, np.argwhere(np.isnan(x)).tolist()))
    again = ArrayMeasure.from_facts(measure.to_facts())
    assert again.to_facts() == measure.to_facts()


def test_losses_at_step_0() -> None:
    from collections import Counter

    losses = initial_losses(Counter({"a": 30, "b": 10}), 4)
    assert losses["uniform"] == pytest.approx(math.log(4))
    assert losses["prior"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert initial_losses(Counter({"a": 3}), None) == {}


def test_a_million_annotations_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    place = tmp_path / "instances.json"
    with place.open("w") as file:
        images = ",".join(f'{{"id":{k},"file_name":"{k}.jpg","width":640,"height":480}}' for k in range(100_000))
        file.write(f'{{"images":[{images}],"categories":[{{"id":1,"name":"a"}},{{"id":2,"name":"b"}}],"annotations":[')
        for k in range(1_000_000):
            x, y, w = k / 2000, k % 400, 10 + k % 60 if k != 777_777 else 0
            ring = f"{x},{y},{x + w},{y},{x + w},{y + 20},{x},{y + 20}"
            file.write(
                f'{"," if k else ""}{{"id":{k + 1},"image_id":{k % 100_000},"category_id":{1 + k % 2},'
                f'"bbox":[{x},{y},{w},20],'
                f'"area":{max(w, 1) * 20},"iscrowd":0,"segmentation":[[{ring}]]}}'
            )
        file.write("]}")
    code = (
        "import sys\n"
        "from whynan.data.scan import scan\n"
        "result = scan(sys.argv[1], workers=1, is_cached=False)\n"
        "assert result.statistics.n_annotations == 1_000_000\n"
        "found = [(f.check, f.annotation) for f in result.findings if f.severity == 'error']\n"
        "assert found == [('box-zero-size', 777_777)], found[:3]\n"
        # Not ru_maxrss: a child inherits that of the process which started it.
        "[peak] = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(int(peak.split()[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000
